"""What the operator page shows of many models, and what an administrator can do with them there."""

import json
import re
from contextlib import contextmanager

import pytest
from gateway import Gateway, gateway, open_stream, wait_until
from keyed import keyed_gateway
from operator_page import DESKTOP, PHONE, SOON, ask, assert_accessible, opened, picture, replying, url_of
from playwright.sync_api import Page, expect
from pooled import change, config, pool, state

LOADED = {"ready", "loading", "queued"}


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    with gateway("--config", config(tmp_path_factory.mktemp("box"))) as server:
        yield server


@pytest.fixture
def at_rest(box):
    """The server with nothing but what is pinned, and with what cannot be loaded tried once."""
    if state(box, "torn") == "cold":
        change(box, "load", "torn", "failed")
    for model in ("spare", "other"):
        if state(box, model) in LOADED:
            change(box, "unload", model, "cold")
    return box


def row(page: Page, model: str):
    return page.locator("#models .model").filter(has=page.get_by_text(model, exact=True))


def tag(page: Page, model: str):
    return row(page, model).locator(".tag")


def held(server: Gateway, kind: str, size: int, budget: int | None = None):
    """The server's list of models, with somebody who holds so much memory."""
    memory = [{"kind": "program", "bytes": 1 << 20}, {"kind": kind, "bytes": size}]
    return replying(200, {**pool(server), "edgellm": {"memory": memory, **({"memory_budget": budget} if budget else {})}})


@contextmanager
def kept_busy(server: Gateway, model: str):
    """A client that wants more from this model than anybody waits for, until it leaves."""
    connection, response = open_stream(server, model=model, n=8, max_tokens=1500)
    try:
        yield
    finally:
        response.close()
        connection.close()


def test_every_model_is_shown_with_its_state_and_what_it_takes(chromium, at_rest):
    with opened(chromium, url_of(at_rest)) as page:
        expect(tag(page, "kiosk")).to_have_text("ready")
        kiosk = row(page, "kiosk")
        expect(kiosk.locator(".tags")).to_have_text("default · pinned")
        expect(kiosk).to_contain_text("Also called gpt-4o*")
        [known] = [entry["edgellm"]["memory"] for entry in pool(at_rest)["data"] if entry["id"] == "kiosk"]
        expect(kiosk.locator(".memory")).to_have_text(re.compile(rf"^Takes [\d.]+\s[MG]iB: weights\s{known['weights'] / (1 << 20):.1f}\sMiB, KV\scache\s[\d.]+\sMiB, compute\s[\d.]+\sMiB$"))
        expect(tag(page, "spare")).to_have_text("cold")
        expect(row(page, "spare")).to_contain_text("a request loads it")
        expect(row(page, "spare")).to_contain_text("Siblings when something is short: kiosk")
        expect(row(page, "spare").locator(".memory")).to_be_hidden()
        # Cold ones can be asked as well; one that answers at once is chosen first.
        expect(page.locator("#chat-model option")).to_have_text(["kiosk", "spare", "other"])
        expect(page.get_by_label("Model", exact=True)).to_have_value("kiosk")


def test_an_administrator_loads_and_unloads_a_model_and_sees_its_state_change(chromium, at_rest):
    with opened(chromium, url_of(at_rest)) as page:
        page.get_by_role("button", name="Load spare").click()
        expect(tag(page, "spare")).to_have_text("ready", timeout=SOON)
        expect(row(page, "spare").locator(".memory")).to_contain_text("Takes")
        expect(row(page, "spare")).to_contain_text("loaded")
        assert state(at_rest, "spare") == "ready"
        before = at_rest.metric("edgellm_pool_evictions_total", 'reason="asked"')
        page.get_by_role("button", name="Unload spare").click()
        expect(tag(page, "spare")).to_have_text("cold", timeout=SOON)
        expect(page.get_by_role("button", name="Load spare")).to_be_visible()
        expect(page.locator("#evictions")).to_contain_text(f"{before + 1:.0f} unloaded by an administrator", timeout=SOON)
        assert state(at_rest, "spare") == "cold"


def test_what_is_pinned_has_no_button(chromium, at_rest):
    with opened(chromium, url_of(at_rest)) as page:
        expect(tag(page, "kiosk")).to_have_text("ready")
        expect(row(page, "spare").get_by_role("button")).to_have_count(1)
        expect(row(page, "kiosk").get_by_role("button")).to_have_count(0)


def test_the_server_says_why_it_does_not_load_or_unload(chromium, at_rest):
    # Somebody pinned it a moment ago.
    pinned = at_rest.http("POST", "/models/unload", '{"model": "kiosk"}', {"content-type": "application/json"})
    assert pinned.status == 400
    with opened(chromium, url_of(at_rest), {"models/load": replying(400, pinned.json())}) as page:
        page.get_by_role("button", name="Load spare").click()
        expect(row(page, "spare").get_by_role("alert")).to_contain_text("the model is pinned")
        # It stays while nothing changes.
        for _ in range(2):
            with page.expect_response("**/ready", timeout=SOON):
                pass
        expect(row(page, "spare").get_by_role("alert")).to_contain_text("the model is pinned")
        change(at_rest, "load", "spare", "ready")
        expect(row(page, "spare").get_by_role("alert")).to_be_hidden(timeout=SOON)


def test_a_server_that_is_gone_is_told_at_the_button(chromium, at_rest):
    with opened(chromium, url_of(at_rest), {"models/load": lambda route: route.abort()}) as page:
        page.get_by_role("button", name="Load spare").click()
        expect(row(page, "spare").get_by_role("alert")).to_have_text("The server cannot be reached.")


def test_a_double_click_does_not_undo_itself(chromium, at_rest):
    with opened(chromium, url_of(at_rest)) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
        page.get_by_role("button", name="Load spare").dblclick()
        expect(tag(page, "spare")).to_have_text("ready", timeout=SOON)
        assert [url.rsplit("/", 1)[1] for url in asked] == ["load"]


def test_the_keyboard_loads_and_unloads_and_keeps_its_place(chromium, at_rest):
    with opened(chromium, url_of(at_rest)) as page:
        page.get_by_role("button", name="Load spare").focus()
        page.keyboard.press("Enter")
        expect(tag(page, "spare")).to_have_text("ready", timeout=SOON)
        expect(page.get_by_role("button", name="Unload spare")).to_be_focused()
        page.keyboard.press("Space")
        expect(tag(page, "spare")).to_have_text("cold", timeout=SOON)
        expect(page.get_by_role("button", name="Load spare")).to_be_focused()


def test_a_model_that_cannot_be_loaded_says_why_and_when_it_is_tried_again(chromium, at_rest):
    with opened(chromium, url_of(at_rest)) as page:
        page.get_by_role("button", name="Load torn").click()
        expect(tag(page, "torn")).to_have_text("failed", timeout=SOON)
        why = row(page, "torn").locator(".why")
        expect(why).to_contain_text("torn.gguf")
        expect(why).to_contain_text("compare the file's size and checksum with the original")
        expect(why).to_contain_text(re.compile(r"It can be tried again in \d+ s; “Load” tries it now\."))
        expect(row(page, "torn")).to_contain_text("failed")
        # What cannot be read is not offered.
        expect(page.locator("#chat-model option")).to_have_text(["kiosk", "spare", "other"])
        # It is no reason for the server not to be ready.
        expect(page.locator("#status-title")).to_have_text("Ready")
        picture(page, "models-failed")


def test_a_model_that_waits_for_memory_is_shown_in_the_list_and_in_the_chat(chromium, tmp_path):
    """Two of three fit: `other` waits until `spare` has nothing to do, which then leaves for it."""
    # With little memory a model is as small as can be, whatever the budget.
    with gateway("--config", config(tmp_path, budget=100 << 20)) as server:
        [kiosk] = [sum(entry["edgellm"]["memory"].values()) for entry in pool(server)["data"] if entry["id"] == "kiosk"]
    with gateway("--config", config(tmp_path, budget=11 * kiosk // 4)) as server, opened(chromium, url_of(server)) as page:
        with kept_busy(server, "spare"):
            expect(tag(page, "spare")).to_have_text("ready", timeout=2 * SOON)
            page.get_by_label("Model", exact=True).select_option("other")
            ask(page)
            expect(tag(page, "other")).to_have_text("queued", timeout=SOON)
            expect(row(page, "other").locator(".memory")).to_contain_text("Going to take")
            # Nothing is promised to it yet.
            expect(page.locator("#memory-left")).to_contain_text("left of the budget")
            expect(page.get_by_role("status").filter(has_text="Waiting for memory, or for another model that is being loaded …")).to_be_visible(timeout=SOON)
            picture(page, "models-queued")
        expect(page.locator(".answer .text")).to_contain_text("aisle 12", timeout=2 * SOON)
        expect(page.locator("#chat-waiting")).to_be_hidden()
        expect(tag(page, "other")).to_have_text("ready", timeout=SOON)
        expect(tag(page, "spare")).to_have_text("cold", timeout=SOON)
        expect(page.locator("#evictions")).to_have_text("Left since the server started: 1 made room for another.", timeout=SOON)
        expect(page.locator("#memory-total")).to_have_text(re.compile(r"^[\d.]+ [MG]iB of [\d.]+ [MG]iB$"))


def test_the_chat_says_that_a_model_is_being_loaded_until_its_answer_begins(chromium, at_rest):
    def streaming(tail: str):
        return lambda route: route.fulfill(content_type="text/event-stream", body=f": the model is being loaded\n\n{tail}")

    failure = {"error": {"message": "the file is torn", "type": "server_error", "param": None, "code": None}}
    events = [{"choices": [{"index": 0, "delta": {"content": "Aisle 12."}}]}, {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}]
    answer = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    said = """() => {
        window.said = [];
        const place = document.getElementById("chat-waiting");
        new MutationObserver(() => window.said.push(place.textContent)).observe(place, { childList: true, characterData: true, subtree: true });
    }"""
    for tail, shown in ((f"{answer}data: [DONE]\n\n", "Aisle 12."), (f"data: {json.dumps(failure)}\n\n", "the file is torn")):
        with opened(chromium, url_of(at_rest), {"v1/chat/completions": streaming(tail)}) as page:
            page.evaluate(said)
            expect(tag(page, "kiosk")).to_have_text("ready")
            ask(page)
            expect(page.locator(".answer")).to_contain_text(shown)
            wait_until(lambda: page.evaluate("window.said") == ["The model is being loaded …", ""], "the note was there and is gone")


def test_who_holds_memory_is_a_bar_and_words(chromium, at_rest):
    mebi = 1 << 20
    cases = [
        (held(at_rest, "weights", 3 * mebi, 8 * mebi), "4 MiB of 8 MiB", "Taken or promised; 4 MiB left of the budget.", [12.5, 37.5]),
        (held(at_rest, "weights", 15 * mebi, 8 * mebi), "16 MiB of 8 MiB", "8 MiB over the budget.", [6.25, 93.75]),
        (held(at_rest, "a_new_kind", 3 * mebi), "4 MiB", "Taken or promised. How much may be taken is not known here; pool.memory_budget sets it.", [25, 75]),
    ]
    for reply, total, left, shares in cases:
        with opened(chromium, url_of(at_rest), {"models": reply}) as page:
            expect(page.locator("#memory-total")).to_have_text(total)
            expect(page.locator("#memory-left")).to_have_text(left)
            expect(page.locator("#memory-kinds li").last).to_have_text(re.compile(r"(Weights|a new kind)(3|15) MiB"))
            assert page.locator("#memory-bar span").evaluate_all("parts => parts.map((part) => parseFloat(part.style.width))") == shares
            expect(page.locator("#memory-bar")).to_have_attribute("aria-label", re.compile(rf"^Memory: {total}\. Program 1 MiB, "))


def test_without_an_administrators_key_states_are_shown_and_nothing_can_be_changed(chromium, tmp_path):
    with keyed_gateway(tmp_path, "--config", config(tmp_path)) as keyed, opened(chromium, url_of(keyed.server)) as page:
        page.get_by_label("API key").fill(keyed.add("till-3"))
        page.get_by_role("button", name="Log in").click()
        expect(tag(page, "kiosk")).to_have_text("ready", timeout=SOON)
        expect(tag(page, "spare")).to_have_text("cold")
        expect(row(page, "spare")).to_contain_text("chat")
        expect(row(page, "kiosk")).to_contain_text("Also called gpt-4o*")
        expect(page.locator("#memory")).to_be_hidden()
        expect(page.locator("#models").get_by_role("button")).to_have_count(0)
        change(keyed.server, "load", "spare", "ready")
        expect(tag(page, "spare")).to_have_text("ready", timeout=SOON)
        change(keyed.server, "load", "torn", "failed")
        expect(tag(page, "torn")).to_have_text("failed", timeout=SOON)
        # Where its file lies is none of a client's business.
        expect(row(page, "torn").locator(".why")).to_have_text("It cannot answer; the server's log says why.")
        # Asked once a key: each is a refusal in the server's log.
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url.removeprefix(page.url)))
        for _ in range(2):
            with page.expect_response("**/ready", timeout=SOON):
                pass
        assert "models" not in asked
        assert_accessible(page)
        picture(page, "models-no-administrator")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("device", "viewport"), [("phone", PHONE), ("narrow", {"width": 400, "height": 800}), ("desktop", DESKTOP)])
def test_models_in_every_state_are_accessible_and_fit_the_screen(chromium, at_rest, device, viewport, scheme):
    states = ["cold", "queued", "loading", "ready", "draining", "unloading", "failed", "a new one"]
    memory = {"weights": 100 << 20, "kv_cache": 300 << 20, "compute": 50 << 20}

    kinds = [{"kind": held["kind"], "bytes": number << 26} for number, held in enumerate(pool(at_rest)["edgellm"]["memory"], 1)]
    models = [{"id": f"a-model-with-quite-a-long-name-{number}.{name}", "edgellm": {
        "state": name, "aliases": ["gpt-4o-mini", "text-davinci-*"], "default": number == 0, "pinned": number == 3, "siblings": ["kiosk"], "memory": memory,
        **({"reason": "cannot load model /var/lib/edgellm/models/a-model.gguf: the file is torn", "again_in_seconds": 12} if name == "failed" else {})}}
        for number, name in enumerate(states)]
    everything = replying(200, {"object": "list", "data": models, "edgellm": {"memory_budget": 4 << 30, "memory": kinds}})
    with opened(chromium, url_of(at_rest), {"models": everything}, viewport=viewport, color_scheme=scheme) as page:
        expect(page.locator("#models .tag")).to_have_text(["ready", "cold", "cold", re.compile("cold|failed"), *states])
        expect(page.locator("#memory-kinds li")).to_have_count(9)
        assert_accessible(page)
        picture(page, f"models-{device}-{scheme}")
