"""Settings, metrics, alerts and error codes of the pages are those of the program."""

import re
from pathlib import Path

from gateway import CONFIG
from pages import PAGES, ROOT

SECTIONS = "server|auth|models|pool|state|scheduler|admission|governor|telemetry"


def source(folder: str, pattern: str) -> str:
    return "\n".join(file.read_text() for file in sorted((ROOT / folder).rglob(pattern)))


def named(pattern: str) -> dict[str, str]:
    """What the text of pages names, and a page that does."""
    return {name: page.name for page in PAGES for name in re.findall(pattern, prose(page))}


def prose(page: Path) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_settings_exist():
    section, known = "", set()
    for line in CONFIG.read_text().splitlines():
        if heading := re.match(r"#?\[+(\w+)\]+", line):
            section = heading[1]
        elif setting := re.match(r"#?(\w+) = ", line):
            known.add(f"{section}.{setting[1]}")
    used = named(rf"`((?:{SECTIONS})\.[a-z][a-z_]*[a-z])[` =]")
    assert len(used) > 30
    assert not {name: page for name, page in used.items() if name not in known}


def test_metrics_exist():
    program = source("src", "*.rs") + source("src", "*.js")
    used = named(r"\b(edgellm_[a-z_]+_(?:total|bytes|seconds|joules|ratio|info|requests_waiting))\b")
    assert len(used) > 8
    assert not {name: page for name, page in used.items() if name not in program and name.removeprefix("edgellm_") not in program}


def test_alerts_exist():
    alerts = (ROOT / "deploy/prometheus/edgellm.alerts.yml").read_text()
    used = named(r"`(Edgellm\w+)`")
    assert len(used) > 10
    assert not {name: page for name, page in used.items() if f"alert: {name}" not in alerts}


def test_troubleshooting_knows_every_error_code():
    page = (ROOT / "docs/troubleshooting.md").read_text()
    errors, refusals = (ROOT / "src/http/error.rs").read_text(), (ROOT / "src/admission/mod.rs").read_text()
    table = errors[errors.index("fn row(&self)") :]
    table = table[: table.index("pub fn label")]
    codes = set(re.findall(r'(?:Some|unauthorized|forbidden)\(\s*"(\w+)"', table))
    codes |= set(re.findall(r'Self::\w+ => "(\w+)"', refusals[refusals.index("pub fn as_str") :]))
    assert len(codes) > 20
    assert not {code for code in codes if f"`{code}`" not in page}


def test_there_are_ten_questions_of_store_it():
    index = (ROOT / "docs/README.md").read_text()
    questions = index[index.index("## Ten questions") :]
    rows = re.findall(r"^\| (\w.*\?) \| .+ \| \[.+\)", questions, re.MULTILINE)
    assert len(rows) == 10, rows
