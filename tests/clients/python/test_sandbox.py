"""The server shuts itself off from what it does not need (docs/sandbox.md), and works on."""

import ctypes
import json
import re
import shutil
from pathlib import Path

import pytest
from adapters import adapter
from gateway import BINARY, MODEL, Gateway, ask, gateway, run_edgellm, wait_until


def kernels_abi() -> int:
    """What the kernel itself says of Landlock, at most what the server uses; 0 is nothing."""
    create_ruleset, ask_version, newest = 444, 1, 7
    version = ctypes.CDLL(None).syscall(create_ruleset, None, ctypes.c_size_t(0), ask_version)
    return max(0, min(version, newest))


ABI = kernels_abi()
pytestmark = pytest.mark.skipif(ABI == 0, reason="this kernel has no Landlock")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder for models with the shipped one in it, beside which others may lie."""
    (tmp_path / "models").mkdir()
    shutil.copy(MODEL, tmp_path / "models/kiosk.gguf")
    return tmp_path


def config(folder: Path, **sections) -> Path:
    """A configuration with the shipped model, the state and the keys in folders of their own."""
    file = folder / "config/edgellm.toml"
    file.parent.mkdir(exist_ok=True)
    lines = [f"[{section}]\n{text}\n" for section, text in sections.items()]
    file.write_text("\n".join(lines) + f'\n[[models]]\npath = "{folder}/models/kiosk.gguf"\n')
    return file


def self_test(file: Path, abi: int | None = None):
    limit = [] if abi is None else ["--abi", abi]
    return run_edgellm("sandbox-self-test", "--config", file, *limit)


@pytest.fixture
def everything(folder) -> Path:
    keys = folder / "keys/keys.toml"
    keys.parent.mkdir()
    assert run_edgellm("keys", "add", "till", "--file", keys).returncode == 0
    return config(folder, auth=f'keys_file = "{keys}"', server='listen = "127.0.0.1:0"\nadmin_listen = "127.0.0.1:0"',
                  pool=f'models_dir = "{folder}/models"')


@pytest.mark.parametrize("abi", sorted({1, 2, 3, 4, 6, ABI} & set(range(1, ABI + 1))))
def test_forbidden_things_fail_and_needed_ones_work(everything, abi):
    tested = self_test(everything, abi)
    lines = tested.stdout.splitlines()
    assert tested.returncode == 0, tested.stdout
    assert lines[0] == f"ok      Landlock ABI {abi} is in force"
    assert all(line.startswith("ok ") for line in lines), tested.stdout
    outcomes = dict(re.match(r"ok +([^:]+(?:\d:\d+)?): (.*) \(must", line).groups() for line in lines[1:])
    denied = {what for what, outcome in outcomes.items() if "denied" in outcome or "not permitted" in outcome}
    for what in ("read a file beside a folder of ours", "read the same through a link", "read the same by the way of ..",
                 "read a file in the home folder", "make a file in the model's folder", "make a file in the folder for temporary files",
                 "make a file in the configuration's folder", "rename the configuration", "open the keys file for writing", "start /bin/sh"):
        assert what in denied, tested.stdout
    assert {"connect to a TCP port", "listen on another TCP port"} <= denied or abi < 4, tested.stdout
    assert {"signal another process", "connect to a Unix socket without a file"} <= denied or abi < 6, tested.stdout
    for what in ("read a model", "read the configuration", "read the keys file", "write and replace what is learnt", "start a helper"):
        assert outcomes[what] == "worked", tested.stdout
    assert not list(Path.home().glob(".edgellm-sandbox-self-test*")), "it clears up"


def test_the_self_test_fails_where_there_is_no_sandbox(everything):
    tested = self_test(everything, 0)
    assert tested.returncode == 1
    wrong = [line for line in tested.stdout.splitlines() if line.startswith("WRONG")]
    assert "the sandbox is not in force" in wrong[0]
    assert any("start /bin/sh: worked" in line for line in wrong), tested.stdout
    assert everything.exists(), "what was renamed has its name again"
    assert {file.name for file in everything.parent.iterdir()} == {"edgellm.toml"}


def test_the_self_test_fails_where_something_forbidden_can_be_done(folder):
    file = config(folder, pool=f'models_dir = "{Path.home()}"')
    tested = self_test(file)
    assert tested.returncode == 1
    assert "WRONG   read a file in the home folder: worked" in tested.stdout


def serving(file: Path, **env):
    return gateway("--config", file, env=env)


def test_a_server_says_how_far_it_is_shut_off(folder):
    with serving(config(folder)) as server:
        assert server.metric("edgellm_sandbox_landlock_abi") == ABI
        assert re.search(rf'"INFO","message":"sandbox: .*"landlock_abi":{ABI}', server.log_text()), server.log_text()
    with serving(config(folder), EDGELLM__SERVER__SANDBOX="false") as server:
        assert server.metric("edgellm_sandbox_landlock_abi") == 0
        assert re.search(r"WARN.*server\.sandbox is false", server.log_text()), server.log_text()


#: A filter of system calls, as systemd and containers have them: those of Landlock, 444 to 446, come to nothing good.
LAUNCHER = """#!/usr/bin/env python3
import ctypes, os, struct, sys
program = b"".join(struct.pack("HBBI", *step) for step in (
    (0x20, 0, 0, 0), (0x35, 0, 2, 444), (0x25, 1, 0, 446), (0x06, 0, 0, {outcome}), (0x06, 0, 0, 0x7fff0000)))
kept = ctypes.create_string_buffer(program)
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 5, ctypes.addressof(kept)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter, 0, 0) == 0
os.execv({binary!r}, sys.argv)
"""


@pytest.mark.parametrize(("outcome", "reason"), [("0x80000000", "ends the process"), ("0x00050001", "does not allow it")], ids=["killed", "refused"])
def test_a_filter_that_does_not_know_landlock_is_no_reason_not_to_serve(folder, monkeypatch, outcome, reason):
    launcher = folder / "launcher"
    launcher.write_text(LAUNCHER.format(outcome=outcome, binary=str(BINARY)))
    launcher.chmod(0o755)
    monkeypatch.setattr("gateway.BINARY", launcher)
    with serving(config(folder)) as server:
        assert server.chat().status == 200
        assert server.metric("edgellm_sandbox_landlock_abi") == 0
        assert re.search(rf'"WARN".*{reason}.*the systemd unit remains the wall', server.log_text()), server.log_text()
    assert run_edgellm("sandbox-self-test").returncode == 1


def privileges_of_threads(server: Gateway) -> set[str]:
    """What Landlock wants is set for the thread that enters it, and handed on to those that it starts."""
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
    return {re.search(r"^NoNewPrivs:\s*(\d)", (task / "status").read_text(), re.MULTILINE)[1] for task in tasks}


def test_it_is_closed_before_there_is_another_thread(folder):
    with serving(config(folder)) as server:
        assert server.chat().status == 200
        assert privileges_of_threads(server) == {"1"}


def test_a_server_in_the_sandbox_does_everything(folder):
    more, keys, state = folder / "more", folder / "keys/keys.toml", folder / "state"
    more.mkdir()
    keys.parent.mkdir()
    same = adapter(folder / "models/same.gguf", 0.0)
    adapter(more / "late.gguf", 2.0)
    file = config(folder, auth=f'keys_file = "{keys}"', pool=f'models_dir = "{more}"', state=f'path = "{state}"')
    with open(file, "a") as more_settings:
        more_settings.write(f'adapters = ["{same}"]\n')
    with serving(file) as server:
        server.key = (keys.parent / "first-admin-key").read_text().strip()
        assert server.metric("edgellm_sandbox_landlock_abi") == ABI
        assert server.chat().status == 200

        # A helper compiles the grammar.
        schema = {"type": "object", "properties": {"aisle": {"type": "integer", "maximum": 99}}, "required": ["aisle"], "additionalProperties": False}
        answer = server.chat(response_format={"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}})
        assert answer.status == 200, answer.text
        assert isinstance(json.loads(answer.json()["choices"][0]["message"]["content"])["aisle"], int)

        # Another helper tries a model that comes later.
        shutil.copy(MODEL, more / "late-model.gguf")
        wait_until(lambda: server.post("/models/load", {"model": "late-model"}).status == 200, "the later model is known", 10)
        def asked(model):
            return server.post("/v1/chat/completions", {"model": model, "messages": ask("Where is the coffee?"), "max_tokens": 8})
        assert asked("late-model").status == 200
        assert server.post("/models/unload", {"model": "late-model"}).status == 200

        assert asked("kiosk+same").status == 200
        added = server.post("/models/load", {"model": "kiosk+late", "file": "late.gguf"})
        assert added.status == 200, added.text
        assert asked("kiosk+late").status == 200
        assert server.post("/models/unload", {"model": "kiosk+late"}).status == 200

        # Another process changes the keys, by renaming.
        made = run_edgellm("keys", "add", "till", "--file", keys)
        till = made.stdout.splitlines()[-1]
        def is_known():
            return server.http("GET", "/v1/models", headers={"authorization": f"Bearer {till}"}).status == 200
        wait_until(is_known, "the new key is followed", 15)

        # What is measured is kept.
        def learnt():
            kept = state / "learnt/models.json"
            return kept.exists() and json.loads(kept.read_text())["models"]
        wait_until(learnt, "what was measured is written")
        assert "Permission denied" not in server.log_text(), server.log_text()


def test_a_model_that_lies_out_of_reach_is_explained(folder):
    more, elsewhere = folder / "more", folder / "elsewhere"
    more.mkdir()
    elsewhere.mkdir()
    shutil.copy(MODEL, elsewhere / "blob")
    with serving(config(folder, pool=f'models_dir = "{more}"')) as server:
        (more / "linked.gguf").symlink_to(elsewhere / "blob")

        def answered():
            answer = server.post("/v1/chat/completions", {"model": "linked", "messages": ask("Hello")})
            return answer if answer.status != 404 else None

        answer = wait_until(answered, "the link is seen", 10)
        assert answer.status in (500, 503), answer.text
        # The first answers may be that it is being loaded.
        wait_until(lambda: "server.sandbox" in server.log_text(), "the log says why")
    # It is reached after a restart, because the link is there then.
    with serving(config(folder, pool=f'models_dir = "{more}"')) as server:
        answer = server.post("/v1/chat/completions", {"model": "linked", "messages": ask("Hello"), "max_tokens": 4})
        assert answer.status == 200, answer.text


def test_a_folder_that_is_not_there_is_told_at_the_start(folder):
    with serving(config(folder, pool=f'models_dir = "{folder}/later"')) as server:
        assert re.search(rf"WARN.*pool\.models_dir {folder}/later: there is nothing yet", server.log_text()), server.log_text()


def test_counting_restarts_works_in_the_sandbox(folder):
    runtime = folder / "runtime"
    runtime.mkdir()
    with serving(config(folder), RUNTIME_DIRECTORY=str(runtime)) as server:
        assert server.metric("edgellm_process_starts_total") == 1
    with serving(config(folder), RUNTIME_DIRECTORY=str(runtime)) as server:
        assert server.metric("edgellm_process_starts_total") == 2
        assert server.metric("edgellm_process_ends_total", 'reason="stopped"') == 1
