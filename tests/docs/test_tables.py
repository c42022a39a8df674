"""Tables are drawn as tables: every row has as many cells as the head."""

import re

import pytest
from pages import PAGES, ROOT


def cells(row: str) -> int:
    """GitHub splits at every `|` without a backslash, also inside of code."""
    return len(re.split(r"(?<!\\)\|", row.strip().strip("|")))


def uneven(text: str) -> list[str]:
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    wrong = []
    for table in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        head, *rows = table.strip().splitlines()
        if not rows or not re.fullmatch(r"[|\-: ]+", rows[0]):
            wrong.append(f"no line of dashes below: {head}")
        wrong += [row for row in rows if cells(row) != cells(head)]
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_even(page):
    assert not uneven(page.read_text())


def test_an_uneven_table_is_found():
    assert uneven("| a | b |\n|---|---|\n| 1 |\n") == ["| 1 |"]
    assert uneven("| a | b |\n| 1 | 2 |\n")
    assert not uneven("| a | b |\n|---|---|\n| `x \\| y` | |\n")
