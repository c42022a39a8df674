"""docker/compose.yaml: what it says is allowed, and edgellm and Prometheus run with it. Images cannot be fetched in tests; container.py
says what stands in for edgellm's, Prometheus is Debian's, and Grafana is not tried."""

import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import jsonschema
import pytest
import yaml
from container import COMPOSE, DOCKER, DOCKERFILE, container, image_environment, of_image, owner, services
from gateway import ROOT, free_port, run_edgellm, wait_until
from monitoring import RULES, started

#: Out of Debian's docker-compose, which ./test.sh fetches.
SCHEMA = "usr/lib/python3/dist-packages/compose/config/compose_spec.json"
BOX = services()["edgellm"]
podman = pytest.mark.podman
MOUNTS = [(name, volume) for name, service in services().items() for volume in service["volumes"] if volume.startswith(".")]


def schema() -> dict:
    prometheus = shutil.which("prometheus")
    assert prometheus, "prometheus is missing: run ./test.sh, which fetches it"
    file = Path(prometheus).parents[2] / SCHEMA
    assert file.exists(), f"{file} is missing: run ./test.sh, which fetches Debian 12's docker-compose, or Ubuntu's of that edition"
    found = json.loads(file.read_text())
    found["properties"]["name"] = {"type": "string"}  # newer than this edition
    return found


def test_the_file_is_as_the_compose_specification_wants_it():
    jsonschema.Draft201909Validator(schema()).validate(yaml.safe_load(COMPOSE.read_text()))


@pytest.mark.parametrize("wrong", ["readonly: true", "cap_drop: ALL", "pids_limit: [1]", "volumes: state"])
def test_a_mistake_in_it_is_found(wrong):
    spoiled = yaml.safe_load(COMPOSE.read_text())
    spoiled["services"]["edgellm"] |= yaml.safe_load(wrong)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft201909Validator(schema()).validate(spoiled)


@pytest.mark.parametrize("name", services())
def test_every_container_is_shut_in(name):
    service = services()[name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert owner(service)[0] >= 100, "somebody, and not root"
    assert service["mem_limit"] and service["pids_limit"]
    assert not {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc", "userns_mode", "group_add"} & set(service)
    assert not [volume for volume in service["volumes"] if "docker.sock" in volume]


@pytest.mark.parametrize("name", services())
def test_every_image_has_a_version(name):
    assert re.fullmatch(r"[\w/.-]+:v?\d+\.\d+\.\d+", services()[name]["image"])


def test_our_image_has_the_version_of_the_program():
    [version] = re.findall(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert BOX["image"] == f"edgellm:{version}"


def test_only_this_machine_reaches_the_ports_until_somebody_says_otherwise():
    published = {name: service["ports"] for name, service in services({"EDGELLM_ADDRESS": "0.0.0.0"}).items() if "ports" in service}
    assert published == {"edgellm": ["0.0.0.0:8080:8080", "127.0.0.1:8081:8081"], "grafana": ["127.0.0.1:3000:3000"]}
    assert BOX["ports"][0] == "127.0.0.1:8080:8080"


@pytest.mark.parametrize(("name", "volume"), MOUNTS)
def test_what_is_mounted_exists_and_cannot_be_written(name, volume):
    source, _, mode = volume.split(":")
    assert (DOCKER / source).exists() and mode == "ro"


def test_the_image_has_what_the_volumes_of_the_service_begin_with():
    for volume in BOX["volumes"]:
        place = volume.split(":")[1]
        assert re.search(rf"install -d [^&]*-o {owner(BOX)[0]} -g {owner(BOX)[1]} {place}\b", DOCKERFILE)


def test_image_and_service_say_the_same():
    assert of_image("USER") == [BOX["user"]]
    [check] = of_image("HEALTHCHECK")
    assert json.loads(check[check.index("["):]) == BOX["healthcheck"]["test"][1:]


@pytest.mark.parametrize("names", ["", "box-17.shop.lan", "box-17.shop.lan,*.example.com"])
def test_the_program_knows_the_settings_of_the_service(names, tmp_path):
    given = services({"EDGELLM_NAMES": names})["edgellm"]["environment"]
    checked = run_edgellm("check-config", "--config", ROOT / "config/edgellm.toml", env={**image_environment(), **given, "EDGELLM__AUTH__KEYS_FILE": str(tmp_path / "keys.toml")})
    assert checked.returncode == 0, checked.stderr
    assert all(f'"{name}"' in checked.stdout for name in names.split(",") if name)


def test_grafana_asks_the_prometheus_beside_it_for_the_same_dashboards():
    ours = yaml.safe_load((DOCKER / "grafana-datasource.yaml").read_text())
    example = yaml.safe_load((ROOT / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    [source] = ours["datasources"]
    assert source.pop("url") == "http://prometheus:9090" and example["datasources"][0].pop("url")
    assert ours == example
    [provider] = yaml.safe_load((ROOT / "grafana/provisioning/dashboards/edgellm.yaml").read_text())["providers"]
    places = [volume.split(":")[1] for volume in services()["grafana"]["volumes"]]
    assert provider["options"]["path"] in places


def prometheus_config(folder: Path) -> Path:
    """docker/prometheus.yml in a folder that looks as it does in the container."""
    for name, volume in MOUNTS:
        if name == "prometheus":
            source, place, _ = volume.split(":")
            shutil.copy(DOCKER / source, folder / Path(place).name)
    return folder / "prometheus.yml"


def test_prometheus_takes_its_configuration(tmp_path):
    done = subprocess.run(["promtool", "check", "config", prometheus_config(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """The container, the port for clients and the one for operators."""
    clients, operators = free_port(), free_port()
    ports = {"EDGELLM__SERVER__LISTEN": f"127.0.0.1:{clients}", "EDGELLM__SERVER__ADMIN_LISTEN": f"http://127.0.0.1:{operators}"}
    with container(tmp_path_factory.mktemp("container"), BOX, ports) as box:
        def ready() -> bool:
            assert box.process.name != "0", box.log()
            return status(clients, "/ready") == 200

        wait_until(ready, "the container is ready", 60)
        yield box, clients, operators


def status(port: int, path: str, key: str | None = None) -> int | None:
    """None where nobody listens."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"authorization": f"Bearer {key}"} if key else {})
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def metric(port: int, name: str) -> float:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    [value] = re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(value)


@podman
def test_the_process_in_the_container_can_do_nothing_but_serve(running):
    box, *_ = running
    said = dict(re.findall(r"^(\w+):\s+(.*)$", (box.process / "status").read_text(), re.MULTILINE))
    assert [said["Uid"].split()[0], said["Gid"].split()[0]] == BOX["user"].split(":")
    assert {name: int(said[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0)
    # A filter, and none of its own: podman's default profile.
    assert (said["NoNewPrivs"], said["Seccomp"]) == ("1", "2")
    mounts = {line.split()[4]: line.split()[5].split(",") for line in (box.process / "mountinfo").read_text().splitlines()}
    places = {volume.split(":")[1] for volume in BOX["volumes"]} | {entry.split(":")[0] for entry in BOX["tmpfs"]}
    assert "ro" in mounts["/"]
    for place in (place for place, options in mounts.items() if "rw" in options and not place.startswith(("/dev", "/proc", "/sys"))):
        # The rest is podman's own: resolv.conf, hosts and the like, which are root's.
        assert place in places or os.stat(box.process / "root" / place[1:]).st_mode & 0o002 == 0, place
    limits = (box.process / "limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)


@podman
def test_it_knows_how_much_memory_it_may_take(running):
    _, _, operators = running
    assert (metric(operators, "edgellm_pool_memory_budget_bytes"), BOX["mem_limit"]) == (3 * 2**30, "3g")


@podman
def test_the_process_shuts_itself_off_under_the_default_filter_of_system_calls(running):
    _, _, operators = running
    outside = run_edgellm("sandbox-self-test", "--config", ROOT / "config/edgellm.toml").stdout
    assert metric(operators, "edgellm_sandbox_landlock_abi") == float((re.findall(r"Landlock ABI (\d+) is in force", outside) or ["0"])[0])


@podman
def test_its_health_check_passes(running):
    box, *_ = running
    done = box.run(*BOX["healthcheck"]["test"][1:])
    assert done.returncode == 0, done.stdout + done.stderr


@podman
def test_the_first_key_lies_in_the_volume_and_makes_others_as_the_file_says(running):
    box, clients, operators = running
    admin = (box.process / "root/var/lib/edgellm/first-admin-key").read_text().strip()
    assert (status(clients, "/v1/models"), status(clients, "/v1/models", admin)) == (401, 200)
    [command] = re.findall(r"docker compose exec edgellm (/opt\S+ keys add till-1)", COMPOSE.read_text())
    made = box.run(*command.split())
    assert made.returncode == 0, made.stderr
    till = made.stdout.split()[-1]
    wait_until(lambda: status(clients, "/v1/models", till) == 200, "the till's key is good")
    # Who is open to Prometheus is not open to administrators' work.
    assert (status(operators, "/metrics"), status(operators, "/models"), status(operators, "/models", admin)) == (200, 401, 200)
    assert status(clients, "/metrics", admin) == 404


@podman
def test_prometheus_scrapes_it_without_a_key_by_this_very_configuration(running, tmp_path):
    _, _, operators = running
    file = prometheus_config(tmp_path)
    text = file.read_text()
    assert text.count('"edgellm:8081"') == 1
    file.write_text(text.replace("edgellm:8081", f"127.0.0.1:{operators}").replace("scrape_interval: 15s", "scrape_interval: 1s"))
    arguments = [argument.replace("=/etc/prometheus/", f"={tmp_path}/").replace("=/prometheus", f"={tmp_path}/data") for argument in services()["prometheus"]["command"]]
    with started(arguments, tmp_path) as store:
        wait_until(lambda: [one["value"][1] for one in store.ask("query", query='up{job="edgellm"}')["result"]] == ["1"], "the box is scraped")
        wait_until(lambda: store.ask("query", query="edgellm_build_info")["result"], "its metrics are there")
        groups = {group["name"] for group in store.ask("rules")["groups"]}
        wanted = {group["name"] for kind in ("recording", "alerts") for group in yaml.safe_load((RULES / f"edgellm.{kind}.yml").read_text())["groups"]}
        assert groups == wanted


@podman
def test_it_ends_in_good_order(running):
    box, *_ = running
    assert box.podman("stop", "--time", BOX["stop_grace_period"].removesuffix("s"), box.name).returncode == 0
    assert box.podman("inspect", "--format", "{{.State.ExitCode}}", box.name).stdout.strip() == "0", box.log()
