"""What deploy/INSTALL.md and the pages tell the administrator of a box to type, on a box that is a folder of the test."""

import re
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from fresh_box import UNIT, FreshBox
from gateway import BINARY, ROOT, free_port
from pages import Example, all_examples
from served import Served

INSTALL_PAGE = ROOT / "deploy/INSTALL.md"
STEPS = [example for example in all_examples() if example.step]
#: Settings of `[server]` that 0.2 does not know.
NEW_IN_0_3 = (
    "unix_socket", "admin_listen", "tls_cert", "tls_key", "tls_client_ca", "tls_require_client", "allowed_hosts", "trusted_proxies", "cors_origins", "sandbox",
)
UPGRADED = ["systemctl daemon-reload", "systemctl restart edgellm"]


def step(name: str) -> str:
    [example] = [example for example in STEPS if example.step == name]
    return example.text


def inline(beginning: str, page: Path = INSTALL_PAGE) -> str:
    """A command in the text of a page."""
    [command] = set(re.findall(rf"`({re.escape(beginning)}[^`]*)`", page.read_text()))
    return command


upgrades = pytest.mark.parametrize("upgrade", [example for example in STEPS if example.step == "upgrade"], ids=lambda example: example.name)


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> tuple[Path, Path]:
    """Two versions, unpacked; their archives lie beside them."""
    folder = tmp_path_factory.mktemp("packages")
    for version in ("1.0.0", "1.1.0"):
        subprocess.run([ROOT / "tests/docs/package.sh", version, BINARY, folder], check=True)
    [old] = (folder / "1.0.0").glob("edgellm-*/")
    [new] = (folder / "1.1.0").glob("edgellm-*/")
    return old, new


@pytest.fixture
def fresh(tmp_path) -> FreshBox:
    return FreshBox(tmp_path)


@pytest.fixture
def old_box(fresh, packages) -> FreshBox:
    """The first version is installed."""
    done = fresh.run(step("install"), fresh.fetch(packages[0]).parent)
    assert done.returncode == 0, done.stderr
    return fresh


def damage(archive: Path):
    with archive.open("ab") as file:
        file.write(b"\0")


def test_the_program_can_be_looked_at_without_installing_it(fresh, packages):
    *unpack, serve = step("look").splitlines()
    port = free_port()
    command = "\n".join([*unpack, f"exec {serve} --listen 127.0.0.1:{port}"])
    with Served(command, port, fresh.fetch(packages[0]).parent, fresh.environment) as server:
        assert server.status("/v1/models") == 200
    assert not fresh.calls and not fresh.contents


def test_it_is_installed(old_box, packages):
    assert old_box.installed == packages[0].name
    *added, reload, enable = old_box.calls
    assert (reload, enable) == ("systemctl daemon-reload", "systemctl enable --now edgellm")
    assert [re.fullmatch(r"useradd --system .* edgellm", call) is not None for call in added] == [True]
    assert (old_box.path("/opt/edgellm") / "INSTALL.md").exists()


def test_installing_it_again_changes_nothing(old_box, packages):
    before = set(old_box.contents)
    old_box.path("/etc/edgellm/edgellm.env").unlink()
    done = old_box.run(step("install"), old_box.fetch(packages[0]).parent)
    assert done.returncode == 0, done.stderr
    assert set(old_box.contents) == before
    assert [call.split()[0] for call in old_box.calls].count("useradd") == 1


def test_a_broken_archive_is_not_installed(fresh, packages):
    archive = fresh.fetch(packages[0])
    damage(archive)
    done = fresh.run(step("install"), archive.parent)
    assert done.returncode != 0 and "FAILED" in done.stdout
    assert not fresh.contents and not fresh.calls


def test_the_service_starts_and_gives_out_keys(old_box):
    with old_box.service() as server:
        admin = old_box.path("/var/lib/edgellm/first-admin-key").read_text().strip()
        assert (server.status("/v1/models"), server.status("/metrics", admin)) == (401, 200)
        made = old_box.run(step("key"))
        assert made.returncode == 0, made.stderr
    key = made.stdout.splitlines()[-1]
    with old_box.service() as server:
        assert (server.status("/v1/models", key), server.status("/metrics", key)) == (200, 403)


def test_the_same_keys_are_put_onto_another_box(old_box):
    made = old_box.run(f"{BINARY} keys add boss --admin --file keys.toml")
    old_box.path("/var/lib/edgellm").mkdir()
    old_box.forget_calls()
    done = old_box.run(step("same keys"))
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"install -o edgellm -g edgellm .*", "\n".join(old_box.calls))
    [file] = old_box.path("/var/lib/edgellm").iterdir()
    assert file.name == "keys.toml" and file.stat().st_mode & 0o777 == 0o600
    with old_box.service() as server:
        assert server.status("/metrics", made.stdout.splitlines()[-1]) == 200


def test_settings_of_the_site_are_checked(old_box):
    old_box.variables(*step("settings").splitlines())
    models = old_box.path("/srv/models")
    models.mkdir(parents=True)
    shutil.copy(ROOT / "models/kiosk/kiosk.gguf", models / "my.gguf")
    env = old_box.path("/etc/edgellm/edgellm.env")
    env.write_text(old_box.here(env.read_text()))
    done = old_box.run(step("check"))
    assert done.returncode == 0 and 'id = "my"' in done.stdout, done.stdout + done.stderr
    old_box.variables("EDGELLM__SERVER__LISEN=0.0.0.0:80")
    assert old_box.run(step("check")).returncode == 2


def test_limits_for_the_settings_of_the_site_are_printed(old_box):
    done = old_box.run(step("limits"))
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\[Service\]$(.*\n)+MemoryMax=\d+M$(.*\n)+TasksMax=\d+$", done.stdout, re.MULTILINE), done.stdout
    assert "weights of kiosk" in done.stdout


def test_systemd_is_given_the_port(old_box):
    old_box.forget_calls()
    done = old_box.run(step("socket"))
    assert done.returncode == 0, done.stderr
    assert old_box.path("/etc/systemd/system/edgellm.socket").read_text() == (ROOT / "deploy/edgellm.socket").read_text()
    # The port is free before systemd takes it, and the service finds it there.
    assert old_box.calls == ["systemctl daemon-reload", "systemctl stop edgellm", "systemctl enable --now edgellm.socket", "systemctl start edgellm"]


def test_systemd_is_given_a_port_for_operators(old_box):
    old_box.forget_calls()
    done = old_box.run(step("admin socket"))
    assert done.returncode == 0, done.stderr
    assert old_box.path("/etc/systemd/system/edgellm-admin.socket").read_text() == (ROOT / "deploy/edgellm-admin.socket").read_text()
    assert old_box.calls == ["systemctl daemon-reload", "systemctl stop edgellm", "systemctl enable --now edgellm-admin.socket", "systemctl start edgellm"]


def test_sockets_are_brought_up_to_date(old_box):
    assert old_box.run(step("socket")).returncode == 0
    units = old_box.path("/etc/systemd/system")
    (units / "edgellm.socket").write_text("of an older version")
    assert old_box.run(inline("install -m 644 /opt/edgellm/systemd/edgellm*.socket")).returncode == 0
    for name in ("edgellm.socket", "edgellm-admin.socket"):
        assert (units / name).read_text() == (ROOT / "deploy" / name).read_text()


def test_settings_that_the_release_before_does_not_know_are_taken_out(old_box):
    kept = old_box.path("/etc/edgellm/edgellm.env").read_text()
    old_box.variables(*(f"EDGELLM__SERVER__{name.upper()}=x" for name in NEW_IN_0_3))
    assert old_box.run(step("old settings")).returncode == 0
    assert old_box.path("/etc/edgellm/edgellm.env").read_text() == kept


@upgrades
def test_it_is_upgraded_and_goes_back(old_box, packages, upgrade: Example):
    old, new = packages
    old_unit = old_box.path(UNIT).read_text()
    old_box.forget_calls()
    done = old_box.run(upgrade.text, old_box.fetch(new).parent)
    assert done.returncode == 0, done.stderr
    before = done.stdout.splitlines()[0]
    assert (before, old_box.installed, old_box.calls) == (old.name, new.name, UPGRADED)
    assert old_box.path(UNIT).read_text() != old_unit
    with old_box.service() as server:
        assert server.status("/v1/models") == 401, "its settings are still there"

    old_box.forget_calls()
    lines = upgrade.text.rstrip().removesuffix(")").splitlines()
    [check] = [line for line in lines if "check-config" in line]
    link = inline("ln -sfn OLD-FOLDER", upgrade.page)
    asked = old_box.run("\n".join([inline("new=/opt/OLD-FOLDER", upgrade.page), check]).replace("OLD-FOLDER", before))
    assert asked.returncode == 0, asked.stderr
    done = old_box.run("\n".join([link, *lines[-3:]]).replace("OLD-FOLDER", before))
    assert done.returncode == 0, done.stderr
    assert (old_box.installed, old_box.calls) == (old.name, UPGRADED)
    assert old_box.path(UNIT).read_text() == old_unit


@upgrades
def test_a_broken_archive_stops_the_upgrade_before_anything_changes(old_box, packages, upgrade: Example):
    old_box.forget_calls()
    before = old_box.contents
    archive = old_box.fetch(packages[1])
    damage(archive)
    done = old_box.run(upgrade.text, archive.parent)
    assert done.returncode != 0 and "FAILED" in done.stdout
    assert old_box.contents == before and not old_box.calls


@upgrades
def test_a_setting_that_is_unknown_stops_the_upgrade_before_the_link_moves(old_box, packages, upgrade: Example):
    old_box.variables("EDGELLM__SERVER__LISEN=0.0.0.0:80")
    stops(old_box, packages, upgrade, "server.lisen")


@upgrades
def test_a_box_without_variables_or_without_keys_stops_until_it_has_them(old_box, packages, upgrade: Example):
    variables = old_box.path("/etc/edgellm/edgellm.env")
    variables.unlink()
    stops(old_box, packages, upgrade, "edgellm.env")
    old_box.variables("EDGELLM__SERVER__LISTEN=0.0.0.0:8080")
    stops(old_box, packages, upgrade, "auth.keys_file")
    assert old_box.run(inline("echo EDGELLM__AUTH__OPEN=true")).returncode == 0
    done = old_box.run(upgrade.text, old_box.fetch(packages[1]).parent)
    assert done.returncode == 0, done.stderr
    assert old_box.installed == packages[1].name


def stops(box: FreshBox, packages: tuple[Path, Path], upgrade: Example, why: str):
    old, new = packages
    box.forget_calls()
    unit = box.path(UNIT).stat().st_mtime_ns
    done = box.run(upgrade.text, box.fetch(new).parent)
    assert done.returncode != 0 and why in done.stderr, done.stderr
    assert (box.installed, box.calls, box.path(UNIT).stat().st_mtime_ns) == (old.name, [], unit)


def test_the_service_speaks_tls_with_a_certificate_of_its_own(old_box):
    # As the first start has left it.
    old_box.path("/var/lib/edgellm").mkdir(exist_ok=True)
    old_box.forget_calls()
    made = old_box.run(step("tls"))
    assert made.returncode == 0, made.stderr
    assert old_box.calls == ["systemctl restart edgellm"]
    key = old_box.path("/root/edgellm-ca-key.pem")
    assert key.exists() and not old_box.path("/var/lib/edgellm/tls/ca-key.pem").exists()
    before = old_box.path("/var/lib/edgellm/tls/server.pem").read_bytes()
    renewed = old_box.run(step("renew"))
    assert renewed.returncode == 0 and "10.0.0.5" in renewed.stdout, renewed.stderr
    assert old_box.path("/var/lib/edgellm/tls/server.pem").read_bytes() != before and key.exists()
    trusting = ssl.create_default_context(cafile=old_box.path("/var/lib/edgellm/tls/ca.pem"))
    with old_box.service(trusting) as server:
        assert server.status("/v1/models") == 401


@pytest.fixture
def tls_box(old_box):
    """It has a certificate, and so have a till and Prometheus, who are let in by theirs."""
    old_box.path("/var/lib/edgellm").mkdir(exist_ok=True)
    folder = old_box.path("/var/lib/edgellm/tls")
    for command in (
        step("tls"), f"mv /root/edgellm-ca-key.pem {folder}/ca-key.pem", step("certificate of Prometheus"),
        f"{BINARY} tls client till-7 --output {folder}", f"{BINARY} keys add till-7 --subject till-7 --no-key --file /var/lib/edgellm/keys.toml",
    ):
        done = old_box.run(command)
        assert done.returncode == 0, done.stderr
    env = old_box.path("/etc/edgellm/edgellm.env")
    [authority] = set(re.findall(r"`(EDGELLM__SERVER__TLS_CLIENT_CA=[^`]*)`", (ROOT / "docs/tls.md").read_text()))
    old_box.variables(authority)
    env.write_text(old_box.here(env.read_text()))
    return old_box


def test_prometheus_and_a_till_come_with_certificates(tls_box):
    folder = tls_box.path("/var/lib/edgellm/tls")
    proofs = {}
    for name in ("prometheus", "till-7"):
        proofs[name] = ssl.create_default_context(cafile=folder / "ca.pem")
        proofs[name].load_cert_chain(folder / f"{name}.pem", folder / f"{name}-key.pem")
    with tls_box.service(proofs["prometheus"]) as server:
        assert server.status("/metrics") == 200
        server.tls = proofs["till-7"]
        assert (server.status("/metrics"), server.status("/v1/models")) == (403, 200)
        text = step("till with a certificate").replace("https://10.0.0.5:8080/", f"https://127.0.0.1:{server.port}/")
        asked = subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        assert (asked.returncode, asked.stdout) == (0, "kiosk\n"), asked.stderr
        asked = tls_box.run(f"{BINARY} health https://127.0.0.1:{server.port}")
        assert (asked.returncode, asked.stdout) == (0, '{"status":"ready"}\n'), asked.stderr


def test_the_sandbox_is_tried_as_the_user_of_the_service(old_box):
    old_box.path("/var/lib/edgellm").mkdir(exist_ok=True)
    old_box.forget_calls()
    done = old_box.run(step("self-test"))
    [call] = old_box.calls
    assert call.startswith("runuser -u edgellm -- ") and "/edgellm/bin/edgellm sandbox-self-test" in call
    # Where the kernel has no Landlock it says that.
    assert done.returncode == 0 or "Landlock" in done.stdout, done.stdout + done.stderr


def test_starts_are_counted_where_the_page_says(fresh):
    assert fresh.run(step("starts")).returncode == 0
    shown, searched = fresh.calls
    assert shown == "systemctl show -p NRestarts edgellm"
    words = searched.removeprefix("journalctl -u edgellm -g ")
    assert words in (ROOT / "src/telemetry/logbook.rs").read_text()


def test_the_rule_for_energy_counters_is_written_and_used(fresh):
    done = fresh.run(step("energy counters"))
    assert done.returncode == 0, done.stderr
    [rule] = fresh.path("/etc/udev/rules.d/70-edgellm.rules").read_text().splitlines()
    assert all(re.fullmatch(r'[A-Z]+(==|\+=)"[^"]+"', part) for part in rule.split(", ")), rule
    assert fresh.calls == ["udevadm control --reload", "udevadm trigger --action=add --subsystem-match=powercap"]
    assert set(re.findall(r"%p/(\w+)", rule)) == {"energy_uj"}


def test_nothing_is_left_after_it_is_removed(old_box, packages):
    assert old_box.run(inline("ln -sfn /opt/edgellm/bin/edgellm")).returncode == 0
    assert old_box.run(step("socket")).returncode == 0
    assert old_box.run(step("admin socket")).returncode == 0
    done = old_box.run(step("uninstall"))
    assert done.returncode == 0, done.stderr
    assert not old_box.contents
    stopped = [f"systemctl disable --now {unit}" for unit in ("edgellm.socket", "edgellm-admin.socket", "edgellm")]
    assert old_box.calls[-5:] == [*stopped, "systemctl daemon-reload", "userdel edgellm"]


def test_every_step_of_the_pages_is_run_here():
    run = set(re.findall(r'step\("([\w -]+)"\)', Path(__file__).read_text()))
    assert {example.step for example in STEPS} == run | {"upgrade"}
    assert {example.page.name for example in STEPS if example.step == "upgrade"} == {"INSTALL.md", "operations.md"}
