import shutil

import pytest
from gateway import BINARY, gateway

# The system's; without one, what `playwright install` has fetched.
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def pytest_sessionstart():
    if not BINARY.exists():
        pytest.exit(f"{BINARY} is missing: run ./test.sh, which builds it", returncode=2)


@pytest.fixture(scope="session")
def server():
    with gateway() as running:
        yield running


@pytest.fixture(scope="session")
def launch():
    """Starts a browser with flags."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield lambda *flags: playwright.chromium.launch(executable_path=CHROMIUM, args=flags)


@pytest.fixture(scope="session")
def chromium(launch):
    browser = launch()
    yield browser
    browser.close()
