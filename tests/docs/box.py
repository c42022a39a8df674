"""A box's folders, which are folders of the test instead: no example touches those of the machine that runs the tests."""

import re
from pathlib import Path

#: A path from the root of a box, and no part of a longer one or of an address.
FROM_ROOT = re.compile(r"(?<![\w./])/(?=(?:boot|etc|home|opt|root|run|srv|usr|var)\b)")


def path(root: Path, name: str) -> Path:
    """Where a folder or file of the box lies in the test."""
    return root / name.removeprefix("/")


def here(root: Path, text: str) -> str:
    """An example with these folders."""
    return FROM_ROOT.sub(lambda _: f"{root}/", text)
