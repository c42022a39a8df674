"""Lets a crowd loose on one server for a long time and then looks what it has left behind.

usage: soak.py [--seconds N] [--plain] [--json FILE]

One real server with keys and TLS (--plain: without). Clients come by OpenAI's SDK and by sockets of their own: they read, leave,
vanish, dawdle, flood and send rubbish (clients.py); one key is rotated all the time and at last revoked, and the certificate is replaced every minute.
At the end everybody goes, and judge.py says whether memory was flat and whether anything is left: requests, cells, files, threads. The exit
code is 1 if there is, and every figure is printed.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "clients/python"))  # gateway.py starts the real binary

import httpx  # noqa: E402
from certificates import Certificates  # noqa: E402
from clients import WANTED, Crowd, Notes  # noqa: E402
from gateway import Gateway, free_port, run_edgellm, wait_until  # noqa: E402
from judge import MIB, Soak, findings, growth  # noqa: E402
from wire import Wire  # noqa: E402

SCRAPE_SECONDS = 2
ROTATE_SECONDS = 15
REPLACE_SECONDS = 60
#: Threads for blocking work end when they have had nothing to do for ten seconds.
QUIET_SECONDS = 20
#: From then on everything must have happened.
LONG_SECONDS = 600
#: What is kept on purpose and told: it is bounded by settings, and no leak.
KEPT = ("parked_prompts", "responses", "streams", "grammars", "bodies")


def labelled(label: str, value: str) -> str:
    return f'{label}="{value}"'


def cells(state: str) -> str:
    return f"edgellm_kv_cache_tokens{{{labelled('state', state)}}}"


HANDSHAKES = ("ok", "failed", "timeout", "plain")

NOTHING_LEFT = ("edgellm_requests_running", "edgellm_requests_waiting", "edgellm_kv_cache_usage_ratio", cells("used"), "edgellm_tls_reload_failed")
KEYS = {"admin": ["--admin"], "till": ["--tier", "priority", "--group", "store"], "kiosk": ["--group", "store"], "batch": ["--tier", "flex", "--share", "1"],
        "tablet": ["--requests-per-minute", "20"], "guest": []}


class Box:
    """The server and everything that its operator does to it."""

    def __init__(self, folder: Path, *, plain: bool):
        self.file = folder / "keys.toml"
        self.keys = {name: self._key("add", name, *flags) for name, flags in KEYS.items()}
        certificates = None if plain else Certificates(folder)
        settings = {
            "AUTH__KEYS_FILE": self.file, "STATE__PATH": folder / "state", "ADMISSION__MAX_WAITING": 24,
            # So small that they are full long before the memory is judged; and cells run short at times.
            "MODELS__0__CONTEXT": 6144, "SCHEDULER__PARKED_BYTES": 16 * MIB, "SERVER__STORE_MAX_BYTES": MIB, "SERVER__HEADER_TIMEOUT_SECONDS": 3, "SERVER__WRITE_TIMEOUT_SECONDS": 10,
        }
        env = {f"EDGELLM__{name}": str(value) for name, value in settings.items()}
        self.wire = Wire(free_port(), certificates)
        self.server = Gateway(port=self.wire.port, env={**env, **(certificates.settings if certificates else {})}, tls=self.wire.context)
        self.http = httpx.Client(base_url=self.wire.url, verify=self.wire.context or True, timeout=30, headers={"authorization": f"Bearer {self.keys['admin']}"})

    def _key(self, *arguments: str) -> str:
        done = run_edgellm("keys", *arguments, "--file", self.file)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    def is_ready(self) -> bool:
        assert self.server.process.poll() is None, self.server.log_text()
        try:
            return self.http.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def is_good(self, key: str) -> bool:
        return httpx.get(f"{self.wire.url}/v1/models", verify=self.wire.context or True, timeout=60, headers={"authorization": f"Bearer {key}"}).status_code == 200

    def rotate(self):
        old = self.keys["guest"]
        new = self._key("rotate", "guest")
        wait_until(lambda: self.is_good(new) and not self.is_good(old), "the new key is good, and the old one is not")
        self.keys["guest"] = new

    def revoke(self):
        self._key("revoke", "guest")
        wait_until(lambda: not self.is_good(self.keys["guest"]), "the key is refused")

    def replace_certificate(self):
        self.wire.certificates.replace()
        wait_until(self.wire.is_newest_served, "new connections get the new certificate")

    def close(self) -> int:
        self.http.close()
        return self.server.stop(60)


class Look:
    """What there was at one moment: the metrics, and what the kernel knows of the process."""

    def __init__(self, box: Box, began: float):
        self.at = time.monotonic() - began
        self.text = box.http.get("/metrics").raise_for_status().text
        process = Path(f"/proc/{box.server.process.pid}")
        said = dict(re.findall(r"^(\w+):\s+(\d+)", (process / "status").read_text(), re.MULTILINE))
        self.anonymous, self.resident, self.threads = int(said["RssAnon"]) << 10, int(said["VmRSS"]) << 10, int(said["Threads"])
        self.files = len(list((process / "fd").iterdir()))

    def sum(self, name: str, *labels: str) -> float:
        samples = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", self.text, re.MULTILINE)
        return sum(float(value) for written, value in samples if all(label in written for label in labels))

    def value(self, series: str) -> float:
        name, _, labels = series.partition("{")
        return self.sum(name, *([labels.removesuffix("}")] if labels else []))

    @property
    def unexplained(self) -> float:
        """Memory of its own, without what it says that it keeps."""
        return self.anonymous - sum(self.sum("edgellm_pool_memory_bytes", labelled("kind", kind)) for kind in KEPT)

    @property
    def cells(self) -> float:
        return self.sum("edgellm_kv_cache_tokens")


class Every:
    """Something that is done again and again."""

    def __init__(self, seconds: float, what: Callable[[], None]):
        self.seconds, self.what, self.next, self.times = seconds, what, time.monotonic() + seconds, 0

    def perhaps(self):
        if time.monotonic() >= self.next:
            self.what()
            self.times += 1
            self.next = time.monotonic() + self.seconds


def run(box: Box, notes: Notes, seconds: float) -> tuple[list[Look], Look, Look]:
    """Returns what was seen every few seconds, and what there was before and after."""
    wait_until(box.is_ready, "the server is ready", 60)
    began = time.monotonic()
    # Everything once, so that what is started when it is first wanted is there.
    with Crowd(box.wire, box.keys, notes):
        time.sleep(5)
    time.sleep(QUIET_SECONDS)
    before, looks = Look(box, began), []
    duties = [Every(SCRAPE_SECONDS, lambda: looks.append(Look(box, began))), Every(ROTATE_SECONDS, box.rotate)]
    if box.wire.certificates:
        duties.append(Every(REPLACE_SECONDS, box.replace_certificate))
    with Crowd(box.wire, box.keys, notes):
        while time.monotonic() - began < seconds - QUIET_SECONDS:
            for duty in duties:
                duty.perhaps()
            time.sleep(0.1)
        box.revoke()
        refused = notes.outcomes["guest: 401"]
        wait_until(lambda: notes.outcomes["guest: 401"] > refused, "a guest was refused", 60)
    print(f"{duties[1].times} keys rotated, {duties[2].times if len(duties) > 2 else 0} certificates replaced")
    wait_until(lambda: not any(Look(box, began).value(name) for name in NOTHING_LEFT[:2]), "everybody's request has ended")
    time.sleep(QUIET_SECONDS)
    return looks, before, Look(box, began)


def complaints(log: str) -> list[str]:
    """Lines of the log that no client can be the reason of."""
    return [line[:300] for line in log.splitlines() if "panicked" in line or '"level":"ERROR"' in line][:10]


def summed_up(looks: list[Look], before: Look, after: Look, notes: Notes, log: str, wanted: set[str]) -> Soak:
    asked = labelled("endpoint", "/v1/chat/completions")
    return Soak(
        memory=[(look.at, look.unexplained) for look in looks], files=(before.files, after.files), threads=(before.threads, after.threads),
        at_the_end={name: after.value(name) for name in NOTHING_LEFT}, cells=[look.cells for look in [*looks, after]],
        ledger=notes.ledger, counted=after.sum("edgellm_requests_total", asked), server_errors=after.sum("edgellm_requests_total", labelled("status", "500")),
        outcomes=notes.outcomes, unexpected=notes.unexpected, log_complaints=complaints(log), wanted=wanted)


def table(soak: Soak, looks: list[Look], before: Look, after: Look) -> str:
    grew = growth(soak.memory)
    growths = {
        "steady growth": f"{grew.steady_bytes_per_minute / MIB:.2f} MiB a minute over the last {grew.minutes:.1f} minutes", "growth in all": f"{grew.bytes_in_all / MIB:.1f} MiB",
    } if grew else {"growth": "not judged: the run was too short"}
    rows = {
        "minutes": f"{after.at / 60:.1f}", "requests of clients": f"{soak.ledger.answered} answered, {soak.ledger.left_before} left before they could be", "counted by the server": f"{soak.counted:g}",
        "tokens generated": f"{after.sum('edgellm_generation_tokens_total'):g}", "cancelled": f"{after.sum('edgellm_requests_cancelled_total'):g}",
        "refused": f"{after.sum('edgellm_requests_rejected_total'):g}", "put back for lack of cells": f"{after.sum('edgellm_preemptions_total'):g}",
        "own memory, MiB": f"{before.anonymous / MIB:.0f} before, {max(look.anonymous for look in looks) / MIB:.0f} at most, {after.anonymous / MIB:.0f} after",
        "of it unexplained, MiB": f"{before.unexplained / MIB:.0f} before, {max(look.unexplained for look in looks) / MIB:.0f} at most, {after.unexplained / MIB:.0f} after",
        **growths,
        "files": f"{before.files} before, {max(look.files for look in looks)} at most, {after.files} after",
        "threads": f"{before.threads} before, {max(look.threads for look in looks)} at most, {after.threads} after",
        "running and waiting": f"{max(look.value('edgellm_requests_running') for look in looks):g} and {max(look.value('edgellm_requests_waiting') for look in looks):g} at most",
        **{f"handshakes {result}": f"{after.sum('edgellm_tls_handshakes_total', labelled('result', result)):g}" for result in HANDSHAKES if "edgellm_tls_handshakes_total" in after.text},
        "cells, after": ", ".join(f"{state} {after.value(cells(state)):g}" for state in ("used", "parked", "free")),
        **{f"- {outcome}": str(times) for outcome, times in sorted(soak.outcomes.items())},
    }
    return "\n".join(f"  {name:32} {value}" for name, value in rows.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--plain", action="store_true", help="without TLS")
    parser.add_argument("--json", type=Path, help="the figures go into this file as well")
    arguments = parser.parse_args()
    notes = Notes()
    with tempfile.TemporaryDirectory() as folder:
        box = Box(Path(folder), plain=arguments.plain)
        try:
            looks, before, after = run(box, notes, arguments.seconds)
        finally:
            code = box.close()
        soak = summed_up(looks, before, after, notes, box.server.log_text(), WANTED if arguments.seconds >= LONG_SECONDS else set())
    print(table(soak, looks, before, after))
    found = findings(soak) + ([f"the server ended with exit code {code}"] if code else [])
    for finding in found:
        print(f"FINDING: {finding}")
    if arguments.json:
        arguments.json.write_text(json.dumps({**vars(soak), "ledger": vars(soak.ledger), "wanted": sorted(soak.wanted), "findings": found}, indent=1) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
