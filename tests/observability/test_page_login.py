"""The operator page of a server that has API keys."""

import re

import pytest
from gateway import gateway
from keyed import KeyedGateway, keyed_gateway
from operator_page import DESKTOP, PHONE, SOON, ask, assert_accessible, card, opened, picture, url_of
from playwright.sync_api import BrowserContext, Page, expect


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    with keyed_gateway(tmp_path_factory.mktemp("box")) as running:
        yield running


@pytest.fixture(scope="module")
def till(box):
    """A key that is no administrator's."""
    return box.add("till-3")


def log_in(page: Page, key: str):
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Log in").click()


def expect_login(page: Page):
    """The card alone: nothing that a stranger may not see."""
    expect(page.get_by_role("heading", name="Log in")).to_be_visible(timeout=SOON)
    for part in ("#now", "#governor", "#models-card", "#chat", "#no-metrics", "#logout"):
        expect(page.locator(part)).to_be_hidden()


def expect_panels(page: Page):
    expect(page.locator("#login")).to_be_hidden(timeout=SOON)
    expect(card(page, "Memory").locator(".number")).to_contain_text("iB", timeout=SOON)


def paths_asked(page: Page) -> list[str]:
    """The paths that the page asks from now on."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(page.url)))
    return asked


def wait_for_rounds(page: Page, rounds: int = 3):
    """So many times that the page has looked at the server."""
    for _ in range(rounds):
        with page.expect_response("**/ready", timeout=SOON):
            pass


def kept(page: Page) -> dict[str, str]:
    return page.evaluate("({ ...sessionStorage })")


def assert_kept_nowhere_else(context: BrowserContext, page: Page):
    assert page.evaluate("localStorage.length") == 0 and page.evaluate("indexedDB.databases()") == [] and page.evaluate("caches.keys()") == []
    assert page.evaluate("document.cookie") == "" and context.cookies() == []


def test_an_administrator_logs_in_and_sees_panels_models_and_answers(chromium, box):
    with opened(chromium, url_of(box.server)) as page:
        urls: list[str] = []
        page.on("request", lambda request: urls.append(request.url))
        expect_login(page)
        expect(page.locator("#status-title")).to_have_text("Ready")
        expect(page.locator("#login-hint")).to_contain_text("first-admin-key")
        expect(page.locator("#login-problem")).to_be_hidden()
        log_in(page, f"  {box.admin}\n")
        expect_panels(page)
        expect(page.locator("#models")).to_contain_text("kiosk")
        expect(page.locator("#server-facts")).to_contain_text("version")
        expect(page.locator("#no-metrics")).to_be_hidden()
        expect(page.get_by_role("button", name="Log out")).to_be_visible()
        ask(page)
        expect(page.locator(".answer .text")).to_contain_text("aisle 12")
        expect(card(page, "Speed").locator("path.line")).to_have_count(1, timeout=SOON)
        assert list(kept(page).values()) == [box.admin]
        assert_kept_nowhere_else(page.context, page)
        assert page.url == url_of(box.server) and not [url for url in urls if box.admin in url]
        picture(page, "logged-in")


def test_the_server_says_why_it_refuses_a_key(chromium, box):
    with opened(chromium, url_of(box.server)) as page:
        expect_login(page)
        for key, why in (("sk-edge-guessed", "is not known here, or was revoked"), (box.add_expired("summer"), "has expired")):
            log_in(page, key)
            expect(page.get_by_role("alert")).to_contain_text(why)
            expect_login(page)
            assert kept(page) == {}
        picture(page, "login-refused")
        # A header could not even carry it.
        asked = paths_asked(page)
        log_in(page, "Schlüssel")
        expect(page.get_by_role("alert")).to_contain_text("That is no API key")
        assert "v1/models" not in asked
        log_in(page, box.admin)
        expect_panels(page)


def test_another_key_may_chat_and_is_told_that_metrics_need_an_administrators(chromium, box, till):
    with opened(chromium, url_of(box.server)) as page:
        expect_login(page)
        log_in(page, till)
        expect(page.locator("#no-metrics")).to_contain_text("Metrics need the key of an administrator", timeout=SOON)
        expect(page.locator("#models")).to_contain_text("kiosk")
        for part in ("#login", "#now", "#governor"):
            expect(page.locator(part)).to_be_hidden()
        asked = paths_asked(page)
        ask(page)
        expect(page.locator(".cost")).to_contain_text("tokens/s", timeout=SOON)
        # It may have been measured, but not for this key.
        expect(page.locator(".cost")).not_to_contain_text("energy")
        expect(page.locator(".answer .text")).to_contain_text("aisle 12")
        wait_for_rounds(page)
        # Each would be a refusal in the server's log.
        assert "metrics" not in asked and asked.count("v1/models") >= 2
        assert_accessible(page)
        picture(page, "no-administrator")


def test_the_key_is_this_tabs_and_outlives_a_reload(chromium, box):
    with opened(chromium, url_of(box.server)) as page:
        expect_login(page)
        log_in(page, box.admin)
        expect_panels(page)
        page.reload()
        expect_panels(page)
        other = page.context.new_page()
        other.goto(url_of(box.server))
        expect_login(other)
        other.close()


def test_logging_out_forgets_the_key_and_all_that_was_shown(chromium, box):
    with opened(chromium, url_of(box.server)) as page:
        expect_login(page)
        log_in(page, box.admin)
        expect_panels(page)
        ask(page)
        expect(page.locator(".cost")).not_to_be_empty()
        page.get_by_role("button", name="Log out").click()
        expect_login(page)
        assert kept(page) == {} and page.get_by_label("API key").input_value() == ""
        assert page.locator(".said, path.line, .model").count() == 0
        page.reload()
        expect_login(page)


def test_a_key_that_is_revoked_while_the_page_is_open_brings_the_login_back(chromium, box):
    key = box.add("night-shift", "--admin")
    with opened(chromium, url_of(box.server)) as page:
        expect_login(page)
        log_in(page, key)
        expect_panels(page)
        ask(page)
        expect(page.locator(".cost")).not_to_be_empty()
        box.revoke("night-shift", key)
        expect_login(page)
        expect(page.get_by_role("alert")).to_contain_text("was revoked")
        assert kept(page) == {} and page.locator(".said").count() == 0
        # The message stays while nobody does anything.
        wait_for_rounds(page)
        expect(page.get_by_role("alert")).to_contain_text("was revoked")
        log_in(page, box.admin)
        expect_panels(page)
        expect(page.get_by_role("alert")).to_be_hidden()
        ask(page)
        expect(page.locator(".answer .text")).to_contain_text("aisle 12")


def test_while_nobody_logs_in_only_readiness_is_asked(chromium, box):
    with opened(chromium, url_of(box.server)) as page:
        expect_login(page)
        asked = paths_asked(page)
        wait_for_rounds(page)
        assert set(asked) == {"ready"}


def test_metrics_that_are_open_are_shown_without_a_key(chromium, tmp_path):
    with keyed_gateway(tmp_path, env={"EDGELLM__AUTH__METRICS": "open"}) as box, opened(chromium, url_of(box.server)) as page:
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        expect(card(page, "Memory").locator(".number")).to_contain_text("iB", timeout=SOON)
        for part in ("#chat", "#models-card", "#no-metrics"):
            expect(page.locator(part)).to_be_hidden()
        assert_accessible(page)
        picture(page, "open-metrics")
        log_in(page, box.add("till"))
        expect_panels(page)
        ask(page)
        expect(page.locator(".answer .text")).to_contain_text("aisle 12")


def test_a_server_that_comes_back_without_keys_asks_for_none(chromium, tmp_path):
    with keyed_gateway(tmp_path) as box, opened(chromium, url_of(box.server)) as page:
        expect_login(page)
        assert box.server.stop() == 0
        expect(page.locator("#status-title")).to_have_text("Not reachable", timeout=SOON)
        log_in(page, box.admin)
        expect(page.get_by_role("alert")).to_have_text("The server cannot be reached.")
        with gateway(port=box.server.port):
            expect_panels(page)


def test_a_server_without_keys_is_sent_none_and_asks_for_none(chromium, server):
    carried: list[dict] = []
    with opened(chromium, url_of(server)) as page:
        page.on("request", lambda request: carried.append(request.all_headers()))
        expect(page.locator("#models")).to_contain_text("kiosk")
        ask(page)
        expect(page.locator(".cost")).not_to_be_empty()
        expect(page.locator("#login")).to_be_hidden()
        expect(page.get_by_role("button", name="Log out")).to_be_hidden()
        assert carried and not [headers for headers in carried if "authorization" in headers]
        assert kept(page) == {}


def test_the_keyboard_is_enough_to_log_in_and_out(chromium, box):
    with opened(chromium, url_of(box.server)) as page:
        expect(page.get_by_label("API key")).to_be_focused(timeout=SOON)
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not known")
        # What was wrong is selected: to type is to replace it.
        page.keyboard.type(box.admin)
        page.keyboard.press("Enter")
        expect_panels(page)
        expect(page.locator("main")).to_be_focused()
        page.keyboard.press("Shift+Tab")
        expect(page.get_by_role("button", name="Log out")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_label("API key")).to_be_focused(timeout=SOON)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("device", "viewport"), [("phone", PHONE), ("desktop", DESKTOP)])
def test_the_login_is_accessible_and_fits_the_screen(chromium, box: KeyedGateway, device, viewport, scheme):
    with opened(chromium, url_of(box.server), viewport=viewport, color_scheme=scheme) as page:
        expect_login(page)
        log_in(page, "wrong")
        expect(page.get_by_role("alert")).to_contain_text(re.compile("not known"))
        assert_accessible(page)
        picture(page, f"login-{device}-{scheme}")
        log_in(page, box.admin)
        expect_panels(page)
        assert_accessible(page)
        picture(page, f"logged-in-{device}-{scheme}")
