"""The dashboards: as Grafana wants them, and every panel with data from a real Prometheus that scrapes a real server."""

import itertools
import subprocess
import sys

import pytest
import yaml
from gateway import ROOT, gateway
from monitoring import DASHBOARDS, HERE, dashboards, exported, filled_in, knows_sensors, listed, load, metrics_in, panels, prometheus
from sensors import BUDGET_WATTS, WATTS, Sensors

GRAFANA = ROOT / "grafana"
ABSENT, UNSHOWN = listed("absent.txt"), listed("unshown.txt")
TARGETS = [(board["uid"], panel["title"], target) for board in dashboards() for panel in panels(board) for target in panel["targets"]]
SCRAPES = 15


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
    """Prometheus, the server, and the moment at which the load ended."""
    folder = tmp_path_factory.mktemp("proof")
    busy = {"EDGELLM__ADMISSION__MAX_WAITING": "2", "EDGELLM__SCHEDULER__SPECULATION": "on"}
    with Sensors(folder) as sensors:
        env = {**busy, **(sensors.settings() if knows_sensors() else {})}
        with gateway("--max-running", "2", env=env) as server, prometheus([f"127.0.0.1:{server.port}"], folder) as store:
            end = load(server, lambda: [n for n in store.ask("query", query="count_over_time(up[5m])")["result"] if int(n["value"][1]) >= SCRAPES])
            yield store, server, end


@pytest.fixture(scope="module")
def fillings(scraped):
    """The variables' values: each as Grafana finds them, and all of them at once."""
    store, _, _ = scraped
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
    store, server, end = scraped
    missing = metrics_in(target["expr"]) & set(ABSENT)
    for values in fillings:
        expr = filled_in(target["expr"], values)
        shown = store.values(expr, end, 0 if target.get("instant") else 10)
        assert shown or missing, f"{title} is empty: {expr}"


def test_the_laid_out_box_draws_8_of_20_watts_across_the_counters_wrap(scraped):
    if "edgellm_power_draw_watts" in ABSENT:
        pytest.skip(ABSENT["edgellm_power_draw_watts"])
    store, _, end = scraped
    for extreme in ("min", "max"):
        [drawn] = store.values(f"{extreme}_over_time(edgellm_power_draw_watts[5m])", end, 0)
        [left] = store.values(f"{extreme}_over_time(edgellm_power_headroom_watts[5m])", end, 0)
        assert float(drawn) == pytest.approx(WATTS, rel=0.1)
        assert float(left) == pytest.approx(BUDGET_WATTS - WATTS, rel=0.1)


def test_annotations_can_be_asked_for(scraped, fillings):
    store, _, end = scraped
    for board in dashboards():
        for annotation in board["annotations"]["list"]:
            store.values(filled_in(annotation["expr"], fillings[0]), end, 10)


def test_every_rule_can_be_evaluated_and_recording_rules_have_data(scraped):
    store, _, end = scraped
    groups = store.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules and [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    for rule in rules:
        if rule["type"] == "recording":
            assert store.values(rule["name"], end, 10) or metrics_in(rule["query"]) & set(ABSENT), rule["name"]


def test_every_series_is_on_a_panel_or_on_the_list_of_those_that_need_none(scraped):
    _, server, _ = scraped
    shown = set().union(*(metrics_in(target["expr"]) for _, _, target in TARGETS))
    there = exported(server.metrics())
    assert there - shown - set(UNSHOWN) == set(), "put it on a panel, or on unshown.txt with a reason"
    assert set(UNSHOWN) - there == set() and set(UNSHOWN) & shown == set(), "unshown.txt has lines that are not true any more"


def test_every_series_that_is_asked_for_exists_or_is_on_the_list_of_those_absent(scraped):
    _, server, _ = scraped
    there = exported(server.metrics())
    rules = "".join((ROOT / f"deploy/prometheus/edgellm.{kind}.yml").read_text() for kind in ("recording", "alerts"))
    asked = set().union(*(metrics_in(target["expr"]) for _, _, target in TARGETS), metrics_in("\n".join(line for line in rules.splitlines() if "#" not in line)))
    assert asked - there - set(ABSENT) == set(), "misspelt, or for absent.txt with a reason"
    assert set(ABSENT) & there == set(), "absent.txt has lines that are not true any more"
    assert set(ABSENT) - asked == set(), "absent.txt has lines that nothing asks for"


