import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/clients/python"))  # gateway.py starts the real binary

from gateway import BINARY, EMBEDDER, MODEL  # noqa: E402
from shop import Shop  # noqa: E402


def end_in_good_order(*_):
    """As Ctrl-C does: without it the end of this process would leave its servers behind."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # once is enough; and not SIG_IGN, which servers would inherit
    raise KeyboardInterrupt


def pytest_configure(config):
    signal.signal(signal.SIGTERM, end_in_good_order)
    config.addinivalue_line("markers", "docs: examples and links of README.md and docs/")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in Path(item.path).parents:
            item.add_marker("docs")


def pytest_sessionstart():
    for needed in (BINARY, MODEL, EMBEDDER):
        if not needed.exists():
            pytest.exit(f"{needed} is missing: run ./test.sh, which builds it", returncode=2)


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """The box that the pages tell of: its files, and servers that are started when an example wants them."""
    with Shop(tmp_path_factory.mktemp("shop")) as shop:
        yield shop
