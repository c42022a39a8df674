"""What systemd hears of the service, by a test that plays systemd: it listens, and ends what the watchdog misses."""

import os
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import gateway
import pytest
from gateway import MODEL, ROOT, Gateway, open_stream, run_edgellm, wait_until
from thread_freezer import frozen, threads

UNIT = (ROOT / "deploy/edgellm.service").read_text()
FAILED, BAD_CONFIGURATION = 1, 2
#: What the model's thread is called.
THREAD = "model-kiosk"


class Systemd:
    """The other end of $NOTIFY_SOCKET."""

    def __init__(self, address: str, watchdog_seconds: float | None = None):
        self.address, self.watchdog_seconds = address, watchdog_seconds
        self.messages: list[tuple[float, dict[str, str]]] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.thread = threading.Thread(target=self._listen, daemon=True)

    def listen(self):
        self.thread.start()
        return self

    def _listen(self):
        while text := self.socket.recv(65536).decode():
            lines = (line.partition("=") for line in text.splitlines() if line)
            self.messages.append((time.monotonic(), {key: value for key, _, value in lines}))

    def close(self):
        if self.thread.is_alive():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(b"", self.socket.getsockname())
            self.thread.join(10)
        self.socket.close()

    @property
    def environment(self) -> dict[str, str]:
        watchdog = {"WATCHDOG_USEC": str(int(self.watchdog_seconds * 1e6))} if self.watchdog_seconds else {}
        return {"NOTIFY_SOCKET": self.address, **watchdog}

    def times(self, key: str, value: str | None = None) -> list[float]:
        return [at for at, message in list(self.messages) if key in message and value in (None, message[key])]

    def said(self, key: str) -> list[str]:
        return [message[key] for _, message in list(self.messages) if key in message]

    def wait_for(self, key: str, seconds: float = 60):
        wait_until(lambda: self.said(key), key, seconds)

    def silence(self) -> float:
        """Seconds for which the watchdog has not been fed."""
        return time.monotonic() - self.times("WATCHDOG", "1")[-1]


@pytest.fixture
def systemd(tmp_path):
    playing = []

    def play(watchdog_seconds: float | None = None, address: str | None = None, is_deaf: bool = False) -> Systemd:
        playing.append(Systemd(address or str(tmp_path / "notify"), watchdog_seconds))
        return playing[-1] if is_deaf else playing[-1].listen()

    yield play
    for each in playing:
        each.close()


@contextmanager
def started(systemd: Systemd, *arguments, port: int | None = None, **env):
    """A server from its first moment on, whether it is ready or not."""
    server = Gateway(*arguments, port=port, env={**systemd.environment, **env})
    try:
        yield server
    finally:
        server.stop()
        assert "panicked" not in server.log_text()
        server.log.close()


@contextmanager
def service(systemd: Systemd, *arguments, **env):
    """A server that has said that it is ready."""
    with started(systemd, *arguments, **env) as server:
        systemd.wait_for("READY")
        yield server


def frozen_while_it_loads(server: Gateway):
    wait_until(lambda: threads(server.process.pid, THREAD), "the model's thread")
    return frozen(server.process.pid, THREAD)


def stays(condition, what: str, seconds: float):
    """`condition()` is true all the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), what
        time.sleep(0.02)


def test_it_is_ready_when_its_model_is_loaded_and_not_before(systemd):
    played = systemd()
    with started(played) as server, frozen_while_it_loads(server) as thread:
        wait_until(lambda: any(re.fullmatch(r"loading kiosk, \d+ %", line) for line in played.said("STATUS")), "a line for systemctl status")
        assert server.http("GET", "/ready").status == 503
        assert not played.said("READY")
        thread.thaw()
        played.wait_for("READY")
        assert server.http("GET", "/ready").status == 200
        wait_until(lambda: played.said("STATUS")[-1] == "serving kiosk", "what it serves")
        assert played.said("READY") == ["1"]


def test_it_asks_for_time_while_a_load_gets_further_and_not_while_it_hangs(systemd):
    played = systemd()
    with started(played) as server, frozen_while_it_loads(server) as thread:
        wait_until(lambda: played.said("EXTEND_TIMEOUT_USEC"), "it asks for time at the start")
        seconds = int(re.search(r"^TimeoutStartSec=(\d+)$", UNIT, re.MULTILINE)[1])
        assert set(played.said("EXTEND_TIMEOUT_USEC")) == {str(seconds * 1_000_000)}
        # It looks once a second, and may have seen what went on before the thread stood still.
        wait_until(lambda: time.monotonic() - played.times("EXTEND_TIMEOUT_USEC")[-1] > 2.5, "silence")
        asked = len(played.said("EXTEND_TIMEOUT_USEC"))
        thread.thaw()
        thawed = time.monotonic()
        played.wait_for("READY")
        # A fast machine loads the rest between two looks.
        assert len(played.said("EXTEND_TIMEOUT_USEC")) > asked or time.monotonic() - thawed < 2


def test_every_model_of_the_start_is_loaded_or_has_failed_before_it_is_ready(systemd, tmp_path):
    config = tmp_path / "three.toml"
    models = ("first", MODEL, True), ("broken", tmp_path / "missing.gguf", True), ("later", MODEL, False)
    config.write_text("".join(f'[[models]]\nid = "{id}"\npath = "{path}"\npreload = {str(preload).lower()}\n' for id, path, preload in models))
    played = systemd()
    with service(played, "--config", config):
        wait_until(lambda: played.said("STATUS")[-1] == "serving first; cannot load broken; loaded when asked for: later", "all of them")


def test_a_model_that_waits_for_memory_does_not_keep_the_service_from_being_ready(systemd, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 8000000 kB\nMemFree: 1000 kB\nMemAvailable: 1000 kB\n")
    played = systemd()
    with service(played, EDGELLM__GOVERNOR__PROCFS_ROOT=str(tmp_path), EDGELLM__GOVERNOR__SYSFS_ROOT=str(tmp_path)):
        assert played.said("STATUS")[-1] == "waiting for memory: kiosk"


@pytest.mark.parametrize("grace", [30, 300])
def test_a_stop_says_how_long_it_may_take(systemd, grace):
    played = systemd()
    with service(played, EDGELLM__SERVER__SHUTDOWN_GRACE_SECONDS=str(grace)) as server:
        assert server.stop() == 0
    [stopping] = [message for _, message in played.messages if "STOPPING" in message]
    # What it waits for beyond that are models that stop, and farewells.
    assert grace + 10 < int(stopping["EXTEND_TIMEOUT_USEC"]) / 1e6 < grace + 20
    assert f"{grace + 11} s at most" in played.said("STATUS")[-1]


def test_a_start_that_fails_says_why(systemd):
    played = systemd()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with started(played, port=taken.getsockname()[1]) as server:
            assert server.process.wait(30) == FAILED
    wait_until(lambda: "another program uses this port" in played.said("STATUS")[-1], "the reason")
    assert played.said("ERRNO") == ["98"] and not played.said("READY")


def test_a_model_that_cannot_be_loaded_is_the_last_word(systemd, tmp_path):
    played = systemd()
    with started(played, "--model", tmp_path / "missing.gguf") as server:
        assert server.process.wait(30) == FAILED
    wait_until(lambda: "missing.gguf" in played.said("STATUS")[-1], "the reason")
    assert not played.said("READY")


def test_a_mistake_in_the_configuration_is_told(systemd, tmp_path):
    played, config = systemd(), tmp_path / "wrong.toml"
    config.write_text("[server]\nlistn = 1\n")
    done = run_edgellm("serve", "--config", config, env=played.environment)
    assert done.returncode == BAD_CONFIGURATION
    wait_until(lambda: played.said("STATUS") and "server.listn" in played.said("STATUS")[-1], "the reason")


@pytest.mark.parametrize("is_busy", [False, True])
def test_the_watchdog_is_fed_while_all_is_well(systemd, is_busy):
    played = systemd(watchdog_seconds=3)
    with service(played) as server, ThreadPoolExecutor(4) as clients:
        until = time.monotonic() + 5

        def ask():
            while time.monotonic() < until:
                assert server.chat("Where is the coffee?", max_tokens=200, ignore_eos=True).status == 200

        asking = [clients.submit(ask) for _ in range(4 if is_busy else 0)]
        while time.monotonic() < until:
            assert played.silence() < 3
            time.sleep(0.05)
        for each in asking:
            each.result()


def test_the_watchdog_is_fed_under_a_name_of_the_abstract_kind(systemd):
    played = systemd(watchdog_seconds=1.5, address=f"@edgellm-test-{os.getpid()}")
    with service(played):
        wait_until(lambda: len(played.said("WATCHDOG")) > 3, "it is fed")


@pytest.mark.parametrize(("pid", "is_fed"), [("$$", True), ("1", False)])
def test_the_watchdog_is_fed_by_the_process_that_it_is_for(systemd, tmp_path, monkeypatch, pid, is_fed):
    started_by = tmp_path / "edgellm"
    # As systemd does, which knows the number between fork and exec. The server starts itself once more under it.
    started_by.write_text(f'#!/bin/sh\nWATCHDOG_PID={pid} exec "{gateway.BINARY}" "$@"\n')
    started_by.chmod(0o755)
    monkeypatch.setattr(gateway, "BINARY", started_by)
    played = systemd(watchdog_seconds=0.3)
    with service(played):
        if is_fed:
            wait_until(lambda: len(played.said("WATCHDOG")) > 3, "it is fed")
        else:
            stays(lambda: not played.said("WATCHDOG"), "it is another's", 1)


@contextmanager
def hanging(systemd: Systemd, **env):
    """A server whose model's thread stands still in the middle of a step, while the rest of the process is well."""
    with service(systemd, EDGELLM__SERVER__STALL_TIMEOUT_SECONDS="1", **env) as server:
        streams = [open_stream(server) for _ in range(4)]
        with frozen(server.process.pid, THREAD) as thread:
            wait_until(lambda: server.http("GET", "/health").status == 503, "it hangs")
            yield server, thread, streams
        for connection, response in streams:
            response.close()
            connection.close()


def complaints(server: Gateway) -> list[str]:
    return [line for line in server.log_text().splitlines() if "the model kiosk hangs" in line]


def test_a_hanging_decode_starves_the_watchdog_until_it_goes_on(systemd):
    played = systemd(watchdog_seconds=0.6)
    with hanging(played) as (server, thread, streams):
        wait_until(lambda: played.silence() > 0.6, "systemd would end it by now")
        [line] = complaints(server)
        assert '"ERROR"' in line and re.search(r'"seconds":[1-9]', line) and "server.stall_timeout_seconds" in line
        fed = len(played.said("WATCHDOG"))
        thread.thaw()
        wait_until(lambda: len(played.said("WATCHDOG")) > fed + 3, "it is fed again")
        for _, response in streams:
            assert response.read().rstrip().endswith(b"data: [DONE]")
        assert len(complaints(server)) == 1 and "the model kiosk goes on" in server.log_text()


def test_a_hanging_process_is_ended_by_the_watchdog_and_the_next_one_counts_it(systemd, tmp_path):
    run = {"RUNTIME_DIRECTORY": str(tmp_path)}
    played = systemd(watchdog_seconds=0.6)
    with hanging(played, **run) as (server, thread, _):
        wait_until(lambda: played.silence() > 0.6, "the watchdog's time is over")
        server.process.send_signal(signal.SIGABRT)
        thread.wait_end()
        assert server.process.wait(10) == -signal.SIGABRT
    [line] = re.findall(r"^ExecStopPost=(.*)$", UNIT, re.MULTILINE)
    told = {"SERVICE_RESULT": "watchdog", "EXIT_CODE": "killed", "EXIT_STATUS": "ABRT"}
    subprocess.run(shlex.split(line), env={**os.environ, **told, **run}, check=True, timeout=30)
    with service(systemd(address=str(tmp_path / "again")), **run) as server:
        assert server.metric("edgellm_process_ends_total", 'reason="hung"') == 1
        assert server.metric("edgellm_process_ends_total", 'reason="crashed"') == 0
        assert "it hung, and systemd's watchdog ended it" in server.log_text()


def test_a_systemd_that_hangs_itself_holds_nothing_up(systemd):
    # A thousand messages a second that nobody reads: the queue of the socket is full at once.
    played = systemd(watchdog_seconds=0.003, is_deaf=True)
    with started(played) as server:
        server.wait_ready()
        assert server.chat().status == 200
        assert server.stop(20) == 0


def test_without_systemd_nothing_is_said_of_it(server):
    assert not re.search("systemd|watchdog", server.log_text().replace(str(ROOT), ""))
    assert not threads(server.process.pid, "systemd")
    assert Path(f"/proc/{server.process.pid}").exists()
