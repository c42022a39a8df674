"""Prometheus's rules and Alertmanager's example, by their own tools."""

import shutil
import subprocess

import pytest
import yaml
from gateway import ROOT
from monitoring import with_key

RULES = ROOT / "deploy/prometheus"
ALERTS = [rule["alert"] for group in yaml.safe_load((RULES / "edgellm.alerts.yml").read_text())["groups"] for rule in group["rules"]]


def run(*command) -> subprocess.CompletedProcess:
    assert shutil.which(command[0]), f"{command[0]} is missing: run ./test.sh, which fetches it"
    return subprocess.run(command, cwd=RULES, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("command", [
    ("promtool", "check", "config", "prometheus.yml"), ("promtool", "check", "rules", "edgellm.recording.yml", "edgellm.alerts.yml"),
    ("promtool", "test", "rules", "edgellm.tests.yml"), ("amtool", "check-config", "alertmanager.yml"),
], ids=" ".join)
def test_their_own_tools_find_nothing_wrong(command):
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_can_carry_a_key(tmp_path):
    (tmp_path / "edgellm-key").write_text("sk-edge-\n")
    for rules in RULES.glob("edgellm.*.yml"):
        (tmp_path / rules.name).write_text(rules.read_text())
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump(with_key((RULES / "prometheus.yml").read_text(), tmp_path / "edgellm-key")))
    done = run("promtool", "check", "config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    config.write_text(yaml.safe_dump(with_key((RULES / "prometheus.yml").read_text(), tmp_path / "edgellm-key", tmp_path / "ca.pem")))
    done = run("promtool", "check", "config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    # Without its key Prometheus would not start: that is what was checked.
    (tmp_path / "edgellm-key").unlink()
    assert run("promtool", "check", "config", str(config)).returncode != 0


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_tested_where_it_fires_and_where_it_does_not(alert):
    groups = yaml.safe_load((RULES / "edgellm.tests.yml").read_text())["tests"]
    fires = [bool(test.get("exp_alerts")) for group in groups for test in group["alert_rule_test"] if test["alertname"] == alert]
    assert True in fires and False in fires


def test_the_tests_notice_alerts_that_never_fire(tmp_path):
    for name in ("edgellm.recording.yml", "edgellm.tests.yml"):
        (tmp_path / name).write_text((RULES / name).read_text())
    rules = yaml.safe_load((RULES / "edgellm.alerts.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["expr"] = "vector(0) > 1"
    (tmp_path / "edgellm.alerts.yml").write_text(yaml.safe_dump(rules))
    done = run("promtool", "test", "rules", str(tmp_path / "edgellm.tests.yml"))
    assert done.returncode != 0
    assert [alert for alert in ALERTS if f"alertname: {alert}," not in done.stdout + done.stderr] == []
