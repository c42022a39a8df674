"""A session at a terminal, as the pages show it: what is typed stands behind `$`, and what it prints below."""

import os
import re
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from gateway import free_port, wait_until
from shop import Shop

#: Stands for what differs from run to run; alone on a line, for any number of lines.
ANYTHING = "…"
#: A key as the pages write it, which stands for the one that was made before.
SOME_KEY = "sk-edge-…"


@dataclass
class Command:
    """One thing that is typed, and the lines that the page shows below it."""

    text: str
    shown: list[str] = field(default_factory=list)

    @property
    def serves(self) -> bool:
        return re.search(r"\bedgellm serve\b", self.text) is not None

    @property
    def only_asks(self) -> bool:
        """It changes nothing, so that it may be typed again until what it waits for has happened."""
        return self.text.startswith("curl -s ") and " -d " not in self.text


def commands_of(session: str) -> list[Command]:
    found: list[Command] = []
    for line in session.splitlines():
        if line.startswith("$ "):
            found.append(Command(line.removeprefix("$ ")))
        elif found and not found[-1].shown and found[-1].text.endswith("\\"):
            found[-1].text += f"\n{line}"
        elif found:
            found[-1].shown.append(line)
        else:
            raise AssertionError(f"nothing was typed before: {line}")
    assert found, "nothing is typed behind a $"
    return found


def pattern_of(shown: list[str]) -> re.Pattern:
    lines = []
    for line in shown:
        if line.strip() == ANYTHING:
            lines.append(r"(?:.*\n)*?")
        else:
            lines.append(".*".join(map(re.escape, line.split(ANYTHING))) + r"[ \t]*\n")
    return re.compile("".join(lines))


def agrees(shown: list[str], printed: str) -> bool:
    """Whether a program printed what the page shows."""
    if not shown:
        return True
    printed = printed if printed.endswith("\n") or not printed else f"{printed}\n"
    return pattern_of(shown).fullmatch(printed) is not None


class Session:
    """Types the commands of one example, and remembers the key that one of them made."""

    def __init__(self, shop: Shop, kind: str):
        self.shop = shop
        self.kind = kind
        self.port: int | None = None
        self.key = SOME_KEY
        self.servers: list[subprocess.Popen] = []

    def run(self, session: str):
        commands = commands_of(session)
        if any(command.serves for command in commands):
            self.port = free_port()
        try:
            for command in commands:
                self.type(command)
        finally:
            for server in self.servers:
                os.killpg(server.pid, signal.SIGTERM)  # bash and what it started
                server.wait(30)

    def here(self, text: str) -> str:
        if self.port:
            text = text.replace(":8080", f":{self.port}")
        return self.shop.here(text.replace(SOME_KEY, self.key), self.kind)

    def type(self, command: Command):
        text, shown = self.here(command.text), [self.shop.here(line, self.kind) for line in command.shown]
        if command.serves:
            self.serve(text, shown)
            return
        deadline = time.monotonic() + (20 if command.only_asks else 0)
        while not self.typed(text, shown) and time.monotonic() < deadline:
            time.sleep(0.1)  # asks again, until the deadline
        assert self.agreed, f"$ {text}\n{self.printed}\nexit code {self.status}; the page shows:\n" + "\n".join(shown)
        if made := re.search(r"^sk-edge-\S+$", self.printed, re.MULTILINE):
            self.key = made[0]

    def typed(self, text: str, shown: list[str]) -> bool:
        done = self.shop.run(["bash", "-uo", "pipefail", "-c", f"exec 2>&1\n{text}"])
        self.printed, self.status = done.stdout, done.returncode
        self.agreed = self.status == 0 and agrees(shown, self.printed)
        return self.agreed

    def serve(self, text: str, shown: list[str]):
        """Starts a server in the background, and waits for what the page shows of its log."""
        log = Path(tempfile.mkstemp(dir=self.shop.folder)[1])
        command = f"exec 2>&1\n{text} --listen 127.0.0.1:{self.port}"
        environment = {**self.shop.environment(), "EDGELLM__TELEMETRY__LOG_FORMAT": "text"}
        with log.open("w") as output:
            server = subprocess.Popen(["bash", "-c", command], cwd=self.shop.workspace, env=environment,
                                      stdin=subprocess.DEVNULL, stdout=output, start_new_session=True)
        self.servers.append(server)

        def said() -> bool:
            lines = log.read_text().splitlines()
            return all(any(pattern_of([line]).search(f"{said}\n") for said in lines) for line in shown)

        wait_until(said, f"the log says what the page shows: {shown}\n{log.read_text()}", 60)
