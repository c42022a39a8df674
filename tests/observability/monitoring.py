"""A real Prometheus that scrapes a real server, and what our dashboards and rules ask of it."""

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, time

import yaml
from gateway import ROOT, Gateway, free_port, open_stream, wait_until

HERE = Path(__file__).parent
DASHBOARDS = sorted((ROOT / "grafana/dashboards").glob("*.json"))
RULES = ROOT / "deploy/prometheus"
# A histogram is exported as three series, and named in our lists as one.
PART = re.compile(r"_(bucket|sum|count)$")
NAME = re.compile(r"\bedgellm_[a-z0-9_]+")


def listed(name: str) -> dict[str, str]:
    """A reasoned list: `series: reason` on each line."""
    lines = [line for line in (HERE / name).read_text().splitlines() if line and not line.startswith("#")]
    found = dict(line.split(": ", 1) for line in lines)
    assert len(found) == len(lines) and all(found.values()), f"{name} has a line twice or without a reason"
    return found


def metrics_in(promql: str) -> set[str]:
    """The metrics that an expression names; `edgellm_(a|b)_c` in a name's pattern is two."""
    spread = re.sub(r"edgellm_\((\w+)\|(\w+)\)(\w+)", r"edgellm_\1\3 edgellm_\2\3", promql)
    return {PART.sub("", name) for name in NAME.findall(re.sub(r'"edgellm-[^"]*"', "", spread))}


def exported(metrics: str) -> set[str]:
    """The metrics of ours with at least one sample."""
    return {PART.sub("", match) for match in re.findall(r"^(edgellm_[a-z0-9_]+)[{ ]", metrics, re.MULTILINE)}


def dashboards() -> list[dict]:
    return [json.loads(path.read_text()) for path in DASHBOARDS]


def panels(dashboard: dict) -> list[dict]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def filled_in(expr: str, values: dict[str, str]) -> str:
    """An expression as Grafana sends it."""
    built_in = {"__rate_interval": "10s", "__interval": "1s", "__range": "30s"}
    for name, value in sorted({**built_in, **values}.items(), key=lambda item: -len(item[0])):
        expr = expr.replace(f"${{{name}}}", value).replace(f"${name}", value)
    assert "$" not in expr, f"a variable has no value: {expr}"
    return expr


class Prometheus:
    """Its HTTP interface."""

    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **parameters):
        query = urllib.parse.urlencode(parameters, doseq=True)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def values(self, expr: str, at: float, seconds: float) -> list[str]:
        """All values of an expression that are numbers: at a moment, or over the `seconds` before it."""
        if seconds:
            series = self.ask("query_range", query=expr, start=at - seconds, end=at, step=1)["result"]
            found = [value for one in series for _, value in one["values"]]
        else:
            found = [one["value"][1] for one in self.ask("query", query=expr, time=at)["result"]]
        return [value for value in found if value != "NaN"]


def with_key(example: str, file: Path, authority: Path | None = None) -> dict:
    """Our example of a configuration, with what its comments say about keys and, with an authority, about TLS; the key is in `file`."""
    active = "authorization:|  credentials_file:" + ("|scheme:|tls_config:|  ca_file:" if authority else "")
    config = yaml.safe_load(re.sub(rf"^( +)# ({active})", r"\1\2", example, flags=re.MULTILINE))
    for job in config["scrape_configs"]:
        assert list(job["authorization"]) == ["credentials_file"]
        job["authorization"]["credentials_file"] = str(file)
        if authority:
            assert (job["scheme"], list(job["tls_config"])) == ("https", ["ca_file"])
            job["tls_config"]["ca_file"] = str(authority)
    return config


@contextmanager
def prometheus(server: Gateway, folder: Path, authority: Path | None = None):
    """A Prometheus with our rules that scrapes a server every second, with the server's key if it has one, and by TLS if there is an authority."""
    key_file = folder / "edgellm-key"
    key_file.write_text(f"{server.key or ''}\n")
    config = with_key((RULES / "prometheus.yml").read_text(), key_file, authority)
    [job] = config["scrape_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{server.port}"]}]
    config |= {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [str(RULES / f"edgellm.{kind}.yml") for kind in ("recording", "alerts")]}
    del config["alerting"]
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    with started([f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"], folder) as store:
        yield store


@contextmanager
def started(arguments: list[str], folder: Path):
    """A Prometheus with these arguments, ready to be asked; its log is in the folder."""
    binary = shutil.which("prometheus")
    assert binary, "prometheus is missing: run ./test.sh, which fetches it"
    port = free_port()
    log = (folder / "prometheus.log").open("w+")
    process = subprocess.Popen([binary, *arguments, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    store = Prometheus(port)

    def ready():
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        try:
            return urllib.request.urlopen(f"{store.url}/-/ready", timeout=5).status == 200
        except OSError:
            return False

    try:
        wait_until(ready, "Prometheus is ready", 30)
        yield store
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def load(server: Gateway, until) -> float:
    """Customers who ask, crowd at the door and leave early, until `until()`; returns when that was."""
    def burst():
        with ThreadPoolExecutor(12) as crowd:
            statuses = [answer.status for answer in crowd.map(lambda n: server.chat(f"Where is the coffee? {n}", max_tokens=60, ignore_eos=True), range(12))]
        assert set(statuses) <= {200, 503}, statuses

    deadline = monotonic() + 90
    while not until():
        assert monotonic() < deadline, "Prometheus has not scraped often enough"
        burst()
        if server.metric("edgellm_requests_running") == 0:
            connection, response = open_stream(server)
            response.close()
            connection.close()
    return time()
