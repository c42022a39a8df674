"""A session at a terminal, as the pages show it: what is typed stands behind `$`, and what it prints below."""

import re
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from gateway import free_port, wait_until
from served import Served
from shop import Shop

#: Stands for what differs from run to run; alone on a line, for any number of lines.
ANYTHING = "…"
#: A key as the pages write it, which stands for the one that was made before.
SOME_KEY = "sk-edge-…"
#: curl's exit code for an error's answer, with `fail-with-body`.
HTTP_ERROR = 22


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


def is_as_shown(shown: list[str], printed: str, status: int) -> bool:
    """Whether a command did what the page says. It may have got an error if the page shows just that error."""
    says_what = any(line.strip() != ANYTHING for line in shown)
    return agrees(shown, printed) and (status == 0 or (status == HTTP_ERROR and says_what))


class Session:
    """Types the commands of one example, and remembers the key that one of them made."""

    def __init__(self, shop: Shop, kind: str):
        self.shop = shop
        self.kind = kind
        self.port: int | None = None
        self.key = SOME_KEY
        self.servers = ExitStack()

    def run(self, session: str):
        commands = commands_of(session)
        if any(command.serves for command in commands):
            self.port = free_port()
        with self.servers:
            for command in commands:
                self.type(command)

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
        done = self.shop.run(["bash", "-euo", "pipefail", "-c", f"exec 2>&1\n{text}"])
        self.printed, self.status = done.stdout, done.returncode
        self.agreed = is_as_shown(shown, self.printed, self.status)
        return self.agreed

    def serve(self, text: str, shown: list[str]):
        """Starts a server in the background, and waits until it is ready and its log has what the page shows."""
        environment = {**self.shop.environment(), "EDGELLM__TELEMETRY__LOG_FORMAT": "text"}
        # Through `env`, because variables may stand before the program.
        command = f"exec env {text} --listen 127.0.0.1:{self.port}"
        server = self.servers.enter_context(Served(command, self.port, self.shop.workspace, environment))

        def said() -> bool:
            lines = server.log().splitlines()
            return all(any(pattern_of([line]).search(f"{said}\n") for said in lines) for line in shown)

        wait_until(said, f"the log says what the page shows: {shown}\n{server.log()}", 10)
