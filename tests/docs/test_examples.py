"""Every example of README.md, docs/ and deploy/INSTALL.md does what it says it does.

An example that cannot run in a test has a comment in front of it that says why: `<!-- not run: needs root on the box -->`. What
installs the program on a box is in test_install.py: `<!-- step: install -->`.
"""

import json
import re
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest
from console import Session, agrees, commands_of, is_as_shown
from gateway import ROOT, run_edgellm
from pages import Example, all_examples, examples_of
from shop import Shop

EXAMPLES = all_examples()
#: So many may be left out of the tests.
MOST_NOT_RUN = 10


def run_bash(shop: Shop, example: Example, text: str):
    if "my-f16.gguf" in text:
        shop.f16()
    folder = None
    if example.directives.get("run in") == "a copy":
        folder = Path(tempfile.mkdtemp(dir=shop.folder))
        (folder / "docker").mkdir()
        for name in ("Cargo.toml", "Cargo.lock", "docker/compose.yaml"):
            shutil.copy(ROOT / name, folder / name)
        for name in ("src", "benches", "tests", "build.rs"):
            (folder / name).symlink_to(ROOT / name)
    done = shop.run(["bash", "-euo", "pipefail", "-c", text], seconds=300, cwd=folder)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def run_python(shop: Shop, _: Example, text: str):
    done = shop.run([sys.executable, "-c", text])
    assert done.returncode == 0, done.stderr


def run_javascript(shop: Shop, _: Example, text: str):
    done = shop.run(["node", "--input-type=module", "-e", text], cwd=ROOT / "tests/clients/node")
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def check_toml(shop: Shop, _: Example, text: str):
    """A keys file is listed, and a configuration checked."""
    file = Path(tempfile.mkstemp(dir=shop.folder, suffix=".toml")[1])
    file.write_text(text)
    is_keys = "keys" in tomllib.loads(text)
    done = run_edgellm(*(("keys", "list", "--file", file) if is_keys else ("check-config", "--config", file)))
    assert done.returncode == 0, done.stderr


def check_unit(shop: Shop, _: Example, text: str):
    """Lines for the systemd unit change what is in it, and the command that they start has a configuration without mistakes."""
    section, *lines = text.splitlines()
    assert lines
    unit = (ROOT / "deploy" / {"[Service]": "edgellm.service", "[Socket]": "edgellm.socket"}[section]).read_text()
    # What only a site can say is a comment there.
    assert all(re.search(rf"^(#   )?{re.escape(line.partition('=')[0])}=", unit, re.MULTILINE) for line in lines), lines
    commands = [line.removeprefix("ExecStart=").split() for line in lines if line.startswith("ExecStart=/")]
    for program, serve, *flags in commands:
        assert serve == "serve"
        done = shop.run([program, "check-config", *flags])
        assert done.returncode == 0 and 'id = "shop"' in done.stdout, done.stdout + done.stderr


def send_json(shop: Shop, example: Example, text: str):
    body = json.loads(text)
    if request := example.directives.get("request"):
        method, path = request.split()
        answer = shop.server("shop").http(method, path, json.dumps(body), {"content-type": "application/json"})
        assert answer.status == 200, answer.text


def run_console(shop: Shop, example: Example, _: str):
    Session(shop, example.directives.get("server", "shop")).run(example.text)


RUNNERS = {
    "bash": run_bash,
    "console": run_console,
    "ini": check_unit,
    "javascript": run_javascript,
    "json": send_json,
    "python": run_python,
    "sh": run_bash,
    "toml": check_toml,
}


@pytest.mark.parametrize("example", [example for example in EXAMPLES if not (example.reason_not_to_run or example.step)], ids=lambda example: example.name)
def test_the_example_does_what_it_says(shop, example):
    assert example.language in RUNNERS, f"{example.name}: nothing runs `{example.language}`: say in a comment why it is not run"
    text = example.text if example.language == "console" else shop.here(example.text, example.directives.get("server", "shop"))
    RUNNERS[example.language](shop, example, text)


def test_what_is_not_run_is_little_and_says_why():
    left_out = [example for example in EXAMPLES if example.reason_not_to_run]
    assert len(left_out) <= MOST_NOT_RUN, [example.name for example in left_out]
    for example in left_out:
        assert len(example.reason_not_to_run.split()) >= 3, f"{example.name}: {example.reason_not_to_run}"


def test_pages_have_examples_of_every_kind_of_client():
    languages = {example.language for example in EXAMPLES}
    assert {"bash", "console", "javascript", "python", "toml"} <= languages
    assert len(EXAMPLES) > 30


def test_comments_belong_to_the_block_behind_them_alone():
    text = "<!-- not run: takes an hour -->\n```bash\nmake\n```\n\n<!-- not run: lost -->\nwords\n```bash\nls\n```\n  ```sh\n  a\n    b\n  ```\n"
    first, second, third = examples_of(Path("page.md"), text)
    assert (first.line, first.reason_not_to_run) == (2, "takes an hour")
    assert second.reason_not_to_run is None
    assert (third.language, third.text) == ("sh", "a\n  b\n")


def test_a_session_is_commands_and_what_they_print():
    first, second = commands_of("$ echo a \\\n    b\na b\n$ true\n")
    assert (first.text, first.shown) == ("echo a \\\n    b", ["a b"])
    assert (second.text, second.shown) == ("true", [])
    assert agrees(["a…c", "…", "end"], "abc\nmore\nand more\nend\n")
    assert not agrees(["a…c"], "abd\n") and not agrees(["a"], "a\nb\n")


def example(text: str, language: str = "bash") -> Example:
    return Example(ROOT / "README.md", 0, language, text)


WRONG_PATH = "curl -s http://127.0.0.1:8080/v1/chat/nosuchpath -d '{}'"


def test_an_example_that_the_server_answers_with_an_error_fails(shop):
    with pytest.raises(AssertionError, match="not_found"):
        run_bash(shop, example(WRONG_PATH), shop.here(WRONG_PATH))
    for session in (f"$ {WRONG_PATH}\n", f"$ {WRONG_PATH}\n…\n", f'$ {WRONG_PATH}\n{{"id":…\n'):
        with pytest.raises(AssertionError, match="exit code 22"):
            run_console(shop, example(session, "console"), session)


def test_an_error_that_the_page_shows_is_no_failure(shop):
    session = f'$ {WRONG_PATH}\n{{"error":…\n'
    run_console(shop, example(session, "console"), session)
    assert not is_as_shown(['{"error":…'], '{"error":{}}', status=1)


@pytest.mark.parametrize("command", ["edgellm serve --modle my.gguf", "edgellm serv --model my.gguf", "edgellm serve --model no-such.gguf"])
def test_a_server_that_does_not_start_fails_its_example(shop, command):
    session = f"$ {command}\n"
    with pytest.raises(AssertionError, match="exit code"):
        run_console(shop, example(session, "console"), session)
