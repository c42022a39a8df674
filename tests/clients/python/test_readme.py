"""The examples in README.md do what it says they do."""

import re
import subprocess
import sys

import pytest
from gateway import CONFIG, ROOT, gateway

pytestmark = pytest.mark.docs

README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def examples(language: str, word: str) -> list[str]:
    return [text for name, text in EXAMPLES if name == language and word in text]


def run(server, command: list[str], text: str, **options) -> str:
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}")
    done = subprocess.run([*command, text], capture_output=True, text=True, timeout=60, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", examples("bash", "curl"))
def test_the_curl_examples_answer(server, example):
    assert run(server, ["bash", "-euo", "pipefail", "-c"], example).strip()


@pytest.mark.parametrize("example", examples("python", "chat.completions") + examples("python", "client.responses"))
def test_the_python_example_answers(server, example):
    assert run(server, [sys.executable, "-c"], example).strip()


def test_the_embedding_example_finds_what_is_meant(both_models):
    [example] = examples("python", "embeddings")
    with gateway("--config", both_models) as server:
        coffee, moon = run(server, [sys.executable, "-c"], example).splitlines()
    assert "coffee" in coffee and "moon" in moon
    assert float(coffee.split()[0]) > float(moon.split()[0]) + 0.3


@pytest.mark.parametrize("example", examples("javascript", "openai"))
def test_the_node_example_answers(server, example):
    assert run(server, ["node", "--input-type=module", "-e"], example, cwd=ROOT / "tests/clients/node").strip()


def test_every_setting_is_in_the_table():
    section = ""
    for line in CONFIG.read_text().splitlines():
        if heading := re.match(r"\[+(\w+)\]+", line):
            section = heading[1]
        elif setting := re.match(r"#?(\w+) = (.+)", line):
            row = f"| `{section}.{setting[1]}` | `{setting[2].strip(chr(34))}` |"
            assert row in README or f"| `{section}.*` |" in README, line
