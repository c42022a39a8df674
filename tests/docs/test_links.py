"""Links in all Markdown pages lead somewhere, and so do the names of pages in the rest of the repository."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from pages import PAGES, ROOT

TRACKED = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
MARKDOWN = [ROOT / name for name in TRACKED if name.endswith(".md") and (ROOT / name).exists()]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
#: What programs and other texts say of a page.
NAMED = re.compile(r"\bdocs/[\w./-]+\.md\b")


def prose(page: Path) -> str:
    """A page without its code."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", lambda code: code[0] if "](" not in code[0] else "", text)


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    found: set[str] = set()
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        count = 0
        while (name := f"{slug}-{count}" if count else slug) in found:
            count += 1
        found.add(name)
    return found


def broken(page: Path) -> list[str]:
    wrong = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            wrong.append(f"{link}: there is no such file")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            wrong.append(f"{link}: there is no such heading")
    return wrong


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_lead_somewhere(page):
    assert not broken(page)


def test_pages_that_programs_name_exist():
    """Error messages, comments, alerts and dashboards send readers to pages."""
    wrong = []
    for name in TRACKED:
        file = ROOT / name
        if name.startswith(("tests/docs/", "CHANGELOG")) or not file.is_file():
            continue
        try:
            text = file.read_text()
        except UnicodeDecodeError:
            continue
        wrong += [f"{name}: {page}" for page in NAMED.findall(text) if not (ROOT / page).exists() and not (file.parent / page).exists()]
    assert not wrong


def test_files_of_the_repository_that_pages_name_exist():
    path = re.compile(r"`((?:src|tests|deploy|models|config|grafana|docker|benches|fuzz)/[\w./-]*\w/?)`")
    named = {name: page.name for page in PAGES for name in path.findall(page.read_text())}
    assert len(named) > 20
    assert not {name: page for name, page in named.items() if not (ROOT / name).exists()}


def test_every_page_is_in_the_index():
    index = (ROOT / "docs/README.md").read_text()
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md" and f"({page.name}" not in index]
    assert not missing


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 300
