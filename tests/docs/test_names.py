"""Settings, metrics, alerts and error codes of the pages are those of the program."""

import re
import sys
import time
from pathlib import Path

import pytest
from certificates import Certificates
from gateway import wait_until
from pages import PAGES, ROOT

sys.path.append(str(ROOT / "tests/observability"))
from keyed import keyed_gateway  # noqa: E402
from sensors import Sensors  # noqa: E402

#: Stands for any of them.
PLACEHOLDER = "EDGELLM__SECTION__SETTING"


def settings() -> dict[str, set[str]]:
    """All sections, and the settings in each, out of the page that the program prints."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "docs/settings.md").read_text().splitlines():
        if heading := re.match(r"## `\[+(\w+)\]+`$", line):
            section = found.setdefault(heading[1], set())
        elif row := re.match(r"\| `(\w+)` \|", line):
            section.add(row[1])
    return found


SETTINGS = settings()


def named(pattern: str, of=lambda page: page.read_text()) -> dict[str, str]:
    """What pages name, and a page that does."""
    return {name: page.name for page in PAGES for name in re.findall(pattern, of(page))}


def prose(page: Path) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_settings_exist():
    """In the text; examples are run."""
    keys = {key for keys in SETTINGS.values() for key in keys}
    used = named(r"`([a-z_]+\.[a-z][a-z_]*[a-z])[` =]", prose)
    used = {name: page for name, page in used.items() if (name.split(".")[0] in SETTINGS or name.split(".")[1] in keys) and not name.endswith(".pem")}
    assert len(used) > 30
    assert not {name: page for name, page in used.items() if name.split(".")[1] not in SETTINGS.get(name.split(".")[0], ())}


def is_a_setting(variable: str) -> bool:
    """Whether a variable sets something, or begins like those that do."""
    section, *rest = variable.removeprefix("EDGELLM__").lower().split("__")
    if section == "models" and rest and rest[0].isdigit():
        rest = rest[1:]
    elif section == "models" and rest != [""]:
        return False
    known = SETTINGS.get(section, set())
    return not section or (bool(known) and len(rest) == 1 and (not rest[0] or rest[0] in known))


def test_variables_exist():
    used = named(r"\bEDGELLM__\w*")
    assert len(used) > 10
    assert not {name: page for name, page in used.items() if name != PLACEHOLDER and not is_a_setting(name)}


@pytest.mark.parametrize(("variable", "there_is_one"), [
    ("EDGELLM__SERVER__LISTEN", True), ("EDGELLM__MODELS__0__PATH", True), ("EDGELLM__MODELS__", True), ("EDGELLM__", True),
    ("EDGELLM__SERVER__LISEN", False), ("EDGELLM__SEVER__LISTEN", False), ("EDGELLM__MODELS__PATH", False), ("EDGELLM__MODELS__0__PAHT", False),
    ("EDGELLM__SERVER__0__LISTEN", False), ("EDGELLM__SERVER", False), ("EDGELLM__LISTEN", False),
])
def test_a_variable_that_sets_nothing_is_found(variable, there_is_one):
    assert is_a_setting(variable) == there_is_one


@pytest.fixture(scope="module")
def scrape(tmp_path_factory) -> dict[str, set[str]]:
    """The metrics that a box with sensors, keys and TLS has, and their labels, once everything has happened of which it counts how often."""
    folder = tmp_path_factory.mktemp("scraped")
    (folder / "run").mkdir()
    found: dict[str, set[str]] = {}
    wanted = set(named(r"\bedgellm_[a-z_]+"))
    with Sensors(folder / "box") as sensors, keyed_gateway(folder, env={**sensors.settings(), "RUNTIME_DIRECTORY": str(folder / "run")}, tls=Certificates(folder)) as box:
        sensors.follow(box.server)
        till = box.add("till", "--requests-per-minute", "1")
        as_till = {"authorization": f"Bearer {till}"}
        wait_until(lambda: box.server.http("POST", "/v1/embeddings", "{}", as_till).status == 429, "a key has used up its minute")
        deadline = time.monotonic() + 20
        while not wanted <= set(found) and time.monotonic() < deadline:
            if box.server.chat().status == 200 and "edgellm_request_energy_joules" in found:
                sensors.rehearse("memory", 0.99)  # from now on it refuses
            found = metrics(box.server.metrics())
    return found


def metrics(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {name: set() for name in re.findall(r"^# HELP (\S+)", text, re.MULTILINE)}
    for series, labels in re.findall(r"^(\w+)\{(.*)\} \S+$", text, re.MULTILINE):
        name = series if series in found else re.sub(r"_(bucket|sum|count)$", "", series)
        found[name] |= set(re.findall(r'(\w+)="', labels))
    return found


def test_metrics_exist(scrape):
    used = named(r"\bedgellm_[a-z_]+")
    assert len(used) > 25
    assert not {name: page for name, page in used.items() if name not in scrape}


def test_labels_of_metrics_exist(scrape):
    used = named(r"\b(edgellm_[a-z_]+\{[^}]+\})")
    assert len(used) > 4
    for series, page in used.items():
        name, labels = series.removesuffix("}").split("{")
        assert set(re.findall(r"(\w+)(?:=[^,]*)?", labels)) <= scrape[name], f"{page}: {series}"


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
