"""The dashboards: as Grafana wants them, and every panel with data from a real Prometheus that scrapes a real server."""

import itertools
import subprocess
import sys
from time import time

import pytest
import yaml
from certificates import Certificates
from gateway import ROOT, wait_until
from keyed import keyed_gateway
from monitoring import DASHBOARDS, HERE, dashboards, exported, filled_in, listed, load, metrics_in, panels, prometheus
from pooled import change, config
from sensors import BUDGET_WATTS, WATTS, Sensors

GRAFANA = ROOT / "grafana"
UNSHOWN = listed("unshown.txt")
TARGETS = [(board["uid"], panel["title"], target) for board in dashboards() for panel in panels(board) for target in panel["targets"]]
SCRAPES = 15
# Before the load: ten seconds to the counter's wrap, five after it.
AT_REST_JOULES = 15 * WATTS


def checked(*files) -> subprocess.CompletedProcess:
    return subprocess.run(["node", HERE / "check_dashboards.mjs", *files], capture_output=True, text=True, timeout=120, check=False)


def test_the_files_are_what_the_generator_writes():
    done = subprocess.run([sys.executable, GRAFANA / "generate.py", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_dashboards_are_of_grafanas_published_types():
    done = checked(*DASHBOARDS)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("right", "wrong"), [
    ('"fillOpacity": 8', '"fillOpactiy": 8'), ('"mode": "multi"', '"mode": "mulit"'), ('"type": "timeseries"', '"type": "timeserie"'),
    ('"graphTooltip": 1', '"graphTooltip": 7'), ('"unit": "reqps",', ""), ('"description": "Requests', '"descripton": "Requests'),
    ('"legendFormat"', '"legendFromat"'), ('"showLegend": true', '"showLegend": "yes"'), ('"schemaVersion": 39,', ""),
])
def test_a_mistake_in_a_dashboard_is_found(tmp_path, right, wrong):
    text = (GRAFANA / "dashboards/edgellm-overview.json").read_text()
    assert right in text
    spoiled = tmp_path / "spoiled.json"
    spoiled.write_text(text.replace(right, wrong, 1))
    done = checked(spoiled)
    assert done.returncode == 1 and "error TS" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("board", dashboards(), ids=lambda board: board["uid"])
def test_panels_lie_side_by_side_and_have_ids_of_their_own(board):
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = set(itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])))
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    names = [panel["title"] for panel in panels(board)]
    assert len(set(names)) == len(names)


def test_the_same_box_and_time_are_kept_from_dashboard_to_dashboard():
    for board in dashboards():
        names = [variable["name"] for variable in board["templating"]["list"]]
        assert names[:3] == ["datasource", "job", "instance"]
        [link] = board["links"]
        assert link["includeVars"] and link["keepTime"] and set(link["tags"]) <= set(board["tags"])


def test_provisioning_finds_the_data_source_and_the_dashboards():
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    scrape = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape
    [provider] = yaml.safe_load((GRAFANA / "provisioning/dashboards/edgellm.yaml").read_text())["providers"]
    assert provider["type"] == "file" and provider["options"]["path"]


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """Prometheus, the server, its sensors, the moment after the counter's wrap at which the load began, and that at which it ended."""
    folder = tmp_path_factory.mktemp("proof")
    busy = {"EDGELLM__ADMISSION__MAX_WAITING": "2", "EDGELLM__SCHEDULER__SPECULATION": "on", "RUNTIME_DIRECTORY": str(folder)}
    with Sensors(folder) as sensors:
        # A rehearsal that does nobody harm.
        sensors.rehearse("cpu", 0.5)
        certificates = Certificates(folder)
        with (keyed_gateway(folder, "--config", config(folder), env={**busy, **sensors.settings()}, tls=certificates) as box,
              prometheus(box.server, folder, certificates.authority) as store):
            server = box.server
            # Each model in a state of its own, on a pool where one has left already.
            change(server, "load", "other", "ready")
            change(server, "unload", "other", "cold")
            change(server, "load", "spare", "ready")
            change(server, "load", "torn", "failed")
            wait_until(lambda: sensors.wraps and sensors.joules > AT_REST_JOULES, "the counter has wrapped around")
            at_rest = time()
            sensors.follow(server)
            end = load(server, lambda: [n for n in store.ask("query", query="count_over_time(up[5m])")["result"] if int(n["value"][1]) >= SCRAPES])
            yield store, server, sensors, at_rest, end


@pytest.fixture(scope="module")
def fillings(scraped):
    """The variables' values: each as Grafana finds them, and all of them at once."""
    store, *_ = scraped
    found, everything = {}, {}
    for board in dashboards():
        for variable in board["templating"]["list"]:
            if variable["type"] == "custom":
                found[variable["name"]] = everything[variable["name"]] = variable["current"]["value"]
            elif variable["type"] == "query":
                query = filled_in(variable["query"]["query"], {"job": "edgellm", "instance": ".+"})
                selector, label = query.removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
                values = store.ask(f"label/{label}/values", **{"match[]": selector})
                assert values, f"the variable {variable['name']} has no values"
                found[variable["name"]], everything[variable["name"]] = values[0], variable["allValue"]
    return [found, everything]


@pytest.mark.parametrize(("board", "title", "target"), TARGETS, ids=[f"{board}: {title}: {target['refId']}" for board, title, target in TARGETS])
def test_every_panel_shows_data(scraped, fillings, board, title, target):
    store, *_, end = scraped
    for values in fillings:
        expr = filled_in(target["expr"], values)
        shown = store.values(expr, end, 0 if target.get("instant") else 10)
        assert shown, f"{title} is empty: {expr}"


def test_the_laid_out_box_draws_8_of_20_watts_across_the_counters_wrap(scraped):
    store, _, _, at_rest, _ = scraped
    known = {'edgellm_power_draw_watts{source="rapl"}': WATTS, "edgellm_power_headroom_watts": BUDGET_WATTS - WATTS, "edgellm_power_headroom_ratio": 1 - WATTS / BUDGET_WATTS}
    for series, value in known.items():
        # The files are written ten times a second, or less often on a machine that is busy.
        for summary, tolerance in (("avg", 0.05), ("min", 0.2), ("max", 0.2)):
            [seen] = store.values(f"{summary}_over_time({series}[8s])", at_rest, 0)
            assert float(seen) == pytest.approx(value, rel=tolerance), series
    [counted] = store.values('rate(edgellm_energy_joules_total{source="rapl"}[8s])', at_rest, 0)
    assert float(counted) == pytest.approx(WATTS, rel=0.2)


def test_a_rehearsed_pressure_is_seen_everywhere_and_gone_with_its_file(scraped, fillings):
    store, server, sensors, *_ = scraped

    def now(expr: str) -> list[str]:
        return store.values(expr, time(), 0)

    annotations = [filled_in(one["expr"], fillings[0]) for board in dashboards() for one in board["annotations"]["list"]]
    assert annotations and [now(expr) for expr in annotations if now(expr)] == [], "full service"
    sensors.rehearse("power", 0.95)
    wait_until(lambda: server.http("GET", "/ready").status == 503, "shedding")
    refused = server.chat()
    assert (refused.status, refused.error()["code"]) == (503, "power") and int(refused.headers["retry-after"]) > 0
    for seen in ("edgellm_governor_level == 6", 'edgellm_governor_pressure_ratio{resource="power"} == 0.95', 'edgellm_governor_rehearsed_pressure_ratio{resource="power"}',
                 'edgellm_governor_measure_active{action="refuse",resource="power"} == 1', 'edgellm_requests_rejected_total{reason="power"} > 0', *annotations):
        wait_until(lambda: now(seen), seen)
    # It must last for two minutes before somebody is called.
    wait_until(lambda: [alert for alert in store.ask("alerts")["alerts"] if (alert["labels"]["alertname"], alert["labels"].get("resource"), alert["state"]) == ("EdgellmRefusing", "power", "pending")], "the alert is pending")
    sensors.rehearse("power", None)
    wait_until(lambda: server.http("GET", "/ready").status == 200, "ready again")
    wait_until(lambda: now("edgellm_governor_level == 0"), "full service")
    wait_until(lambda: not any(now(expr) for expr in annotations), "no annotation")
    wait_until(lambda: not [alert for alert in store.ask("alerts")["alerts"] if alert["labels"]["alertname"] == "EdgellmRefusing"], "no alert")
    assert server.chat().status == 200


def test_every_rule_can_be_evaluated_and_recording_rules_have_data(scraped):
    store, *_, end = scraped
    groups = store.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules and [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    for rule in rules:
        if rule["type"] == "recording":
            assert store.values(rule["name"], end, 10), rule["name"]


def test_every_series_is_on_a_panel_or_on_the_list_of_those_that_need_none(scraped):
    _, server, *_ = scraped
    shown = set().union(*(metrics_in(target["expr"]) for _, _, target in TARGETS))
    there = exported(server.metrics())
    assert there - shown - set(UNSHOWN) == set(), "put it on a panel, or on unshown.txt with a reason"
    assert set(UNSHOWN) - there == set() and set(UNSHOWN) & shown == set(), "unshown.txt has lines that are not true any more"


def test_every_series_that_is_asked_for_exists(scraped):
    _, server, *_ = scraped
    there = exported(server.metrics())
    rules = "".join((ROOT / f"deploy/prometheus/edgellm.{kind}.yml").read_text() for kind in ("recording", "alerts"))
    asked = set().union(*(metrics_in(target["expr"]) for _, _, target in TARGETS), metrics_in("\n".join(line for line in rules.splitlines() if "#" not in line)))
    assert asked - there == set(), "misspelt"
