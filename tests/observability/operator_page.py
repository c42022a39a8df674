"""The operator page in a real Chromium."""

import os
from contextlib import contextmanager
from pathlib import Path

from gateway import Gateway
from playwright.sync_api import Browser, Page

AXE = (Path(__file__).parent / "node_modules/axe-core/axe.min.js").read_text()
SCREENSHOTS = os.environ.get("EDGELLM_SCREENSHOTS")
PHONE = {"width": 360, "height": 740}
TABLET = {"width": 1024, "height": 768}
DESKTOP = {"width": 1440, "height": 900}
SOON = 15_000


@contextmanager
def opened(chromium: Browser, url: str, replies: dict | None = None, **context):
    """The page at `url`. `replies` changes the text of a path's answer. At the end the page must have stayed within
    its policy and within this server, and no script may have failed."""
    with chromium.new_context(viewport=context.pop("viewport", DESKTOP), **context) as session:
        page = session.new_page()
        failures: list[str] = []
        page.on("pageerror", lambda error: failures.append(f"script: {error}"))
        page.on("request", lambda request: failures.append(f"left the server: {request.url}") if not request.url.startswith(url) else None)
        page.add_init_script("addEventListener('securitypolicyviolation', (event) => { (window.violations ??= []).push(`${event.violatedDirective} ${event.blockedURI}`) })")
        for path, change in (replies or {}).items():
            page.route(url + path, change)
        page.goto(url)
        yield page
        assert page.evaluate("window.violations ?? []") == []
        assert failures == []


def url_of(server: Gateway) -> str:
    return f"http://127.0.0.1:{server.port}/"


def picture(page: Page, name: str):
    """Kept where EDGELLM_SCREENSHOTS says."""
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)


def replying(status: int, body: dict):
    return lambda route: route.fulfill(status=status, json=body)


def card(page: Page, title: str):
    return page.locator(".chart").filter(has=page.get_by_role("heading", name=title, exact=True))


def ask(page: Page, question: str = "Where is the Velmont Ground Coffee?"):
    page.get_by_label("Your question").fill(question)
    page.get_by_role("button", name="Send").click()


def assert_accessible(page: Page):
    """To everybody, and without scrolling sideways."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] })")
    assert len(found["passes"]) > 20, "axe ran"
    assert [(fault["id"], fault["help"], [node["target"] for node in fault["nodes"]]) for fault in found["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
