"""The pages of the documentation, and the examples in them."""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "deploy/INSTALL.md"]

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\s*$")
COMMENT = re.compile(r"^\s*<!--\s*(?P<text>.*?)\s*-->\s*$")
#: What a comment in front of an example may say to the tests.
DIRECTIVE = re.compile(r"^(?P<name>not run|run in|server|request|step): (?P<value>.+)$")


@dataclass(frozen=True)
class Example:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    directives: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def reason_not_to_run(self) -> str | None:
        return self.directives.get("not run")

    @property
    def step(self) -> str | None:
        """What it does on a box; test_install.py runs it."""
        return self.directives.get("step")


def examples_of(page: Path, text: str) -> list[Example]:
    """All fenced blocks. Comments directly before a block belong to it."""
    found, directives = [], {}
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if comment := COMMENT.match(line):
            if directive := DIRECTIVE.match(comment["text"]):
                directives[directive["name"]] = directive["value"]
        elif fence := FENCE.match(line):
            body = block(lines, fence["indent"])
            found.append(Example(page, number, fence["language"], body, directives))
            directives = {}
        else:
            directives = {}
    return found


def block(lines, indent: str) -> str:
    """The lines up to the closing fence, without the indentation of the fence."""
    body = []
    for _, line in lines:
        if line.strip() == "```":
            return "".join(f"{text}\n" for text in body)
        body.append(line.removeprefix(indent))
    raise AssertionError(f"a block does not end: {body[:2]}")


def all_examples() -> list[Example]:
    return [example for page in PAGES for example in examples_of(page, page.read_text())]
