"""The operator page at `/`, in a real Chromium against the real server."""

import json
import re

import pytest
from gateway import ROOT, gateway
from monitoring import load
from operator_page import DESKTOP, PHONE, SOON, TABLET, ask, assert_accessible, card, opened, picture, replying, url_of
from playwright.sync_api import expect
from sensors import Sensors


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A server over laid-out sensors that has worked for long enough to know what work costs, and those sensors."""
    settings = {"EDGELLM__TELEMETRY__ENERGY_IN_USAGE": "true"}
    with Sensors(tmp_path_factory.mktemp("box")) as sensors, gateway(env={**settings, **sensors.settings()}) as server:
        sensors.follow(server)
        load(server, lambda: server.metric("edgellm_request_energy_joules_count") > 0)
        yield server, sensors


def measuring(added: str, *removed: str):
    """The server's metrics, without those whose names begin so, and with others in their place."""
    def reply(route):
        answer = route.fetch()
        kept = [line for line in answer.text().splitlines(keepends=True) if not re.match(rf"(# \w+ )?edgellm_({'|'.join(removed)})_", line)]
        route.fulfill(response=answer, body="".join(kept) + added)

    return reply


def test_it_comes_with_a_policy_and_is_fetched_again_only_when_it_changed(server):
    first = server.http("GET", "/")
    assert first.status == 200 and first.headers["content-type"] == "text/html; charset=utf-8"
    policy = first.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert first.headers["x-content-type-options"] == "nosniff" and first.headers["cache-control"] == "no-cache"
    for path in ("/", "/page/main.js", "/page/page.css"):
        again = server.http("GET", path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status, again.text) == (304, "")
    assert server.http("GET", "/page/nowhere.js").error()["message"]
    assert server.http("GET", "/page/..%2fpage.rs").status == 404


def test_it_says_that_the_server_is_ready_and_what_it_serves(chromium, server):
    with opened(chromium, url_of(server)) as page:
        expect(page.locator("#status")).to_contain_text("Ready")
        expect(page.locator("#models")).to_contain_text("kiosk")
        expect(page.locator("#models")).to_contain_text("Q8_0")
        expect(page.locator("#server-facts")).to_contain_text("version")


def test_an_answer_is_shown_as_it_comes_and_says_what_it_cost(chromium, server):
    before = server.metric("edgellm_generation_tokens_total")
    with opened(chromium, url_of(server)) as page:
        page.evaluate("""() => {
            window.grown = 0;
            new MutationObserver((changes) => {
                window.grown += changes.filter((change) => change.target.matches(".answer .text")).length;
            }).observe(document.getElementById("chat-log"), { childList: true, subtree: true });
        }""")
        ask(page)
        expect(page.locator(".answer .text")).to_contain_text("aisle 12")
        cost = page.locator(".cost")
        expect(cost).to_contain_text("tokens/s")
        expect(cost).to_contain_text("first after")
        tokens = int(re.match(r"(\d+) tokens", cost.text_content())[1])
        assert tokens == server.metric("edgellm_generation_tokens_total") - before
        assert page.evaluate("window.grown") >= 3
        # The next question goes on with the conversation.
        ask(page, "And how much is it?")
        expect(page.locator(".answer .cost")).to_have_count(2)
        expect(page.locator(".cost").nth(1)).to_contain_text("cached")
        expect(page.locator(".failed")).to_have_count(0)


@pytest.mark.parametrize("told", ["usage", "meter"])
def test_the_energy_of_an_answer_is_shown_where_it_is_known(chromium, server, told):
    def metrics(route):
        energy = "".join(f'edgellm_request_energy_joules_{part}{{model="kiosk"}} {value}\n' for part, value in state.items())
        measuring(energy, "request_energy")(route)

    def chat(route):
        answer = route.fetch()
        state.update(sum=state["sum"] + 1.9, count=state["count"] + 1)
        body = answer.text()
        if told == "usage":
            body = body.replace('"prompt_tokens_details"', '"edgellm":{"energy_joules":3.25},"prompt_tokens_details"')
        route.fulfill(response=answer, body=body)

    state = {"sum": 10.0, "count": 4}
    with opened(chromium, url_of(server), {"metrics": metrics, "v1/chat/completions": chat}) as page:
        ask(page)
        expect(page.locator(".cost")).to_contain_text({"usage": "3.3 J", "meter": "1.9 J"}[told])


def test_the_charts_show_what_is_going_on(chromium, server):
    with opened(chromium, url_of(server)) as page:
        expect(page.locator("#status")).to_contain_text("Ready")
        ask(page)
        expect(card(page, "Time to first token").locator(".number")).to_contain_text(re.compile(r"\d m?s"), timeout=SOON)
        expect(card(page, "Speed").locator(".number")).to_have_text(re.compile(r"[\d.]+"), timeout=SOON)
        expect(card(page, "Speed").locator("path.line")).to_have_count(1, timeout=SOON)
        expect(card(page, "Requests").locator(".detail")).to_contain_text("waiting")
        expect(card(page, "Memory").locator(".number")).to_contain_text("iB")
        assert re.search(r"Speed: [\d.]+ tokens", card(page, "Speed").locator(".plot").get_attribute("aria-label"))


def test_a_chart_tells_the_value_at_a_moment_to_mouse_and_keyboard(chromium, server):
    with opened(chromium, url_of(server)) as page:
        requests = card(page, "Requests")
        expect(requests.locator("path.line").first).to_be_attached(timeout=SOON)
        requests.locator(".plot").hover()
        expect(requests.locator(".legend")).to_contain_text("s ago")
        page.mouse.move(0, 0)
        expect(requests.locator(".legend")).not_to_contain_text("s ago")
        requests.locator(".plot").focus()
        page.keyboard.press("ArrowLeft")
        expect(requests.locator(".legend")).to_contain_text("s ago")


def test_a_box_without_sensors_says_so_and_shows_no_zeros(chromium, tmp_path):
    nothing = {f"EDGELLM__GOVERNOR__{root}_ROOT": str(tmp_path) for root in ("SYSFS", "PROCFS")} | {"EDGELLM__GOVERNOR__ENABLED": "true"}
    with gateway(env=nothing) as server, opened(chromium, url_of(server)) as page:
        for title, what in (("Power", "power"), ("Temperature", "temperature")):
            expect(card(page, title).locator(".detail")).to_have_text(f"This box has no {what} sensor.")
            expect(card(page, title).locator(".number")).to_have_text("Unknown")
            expect(card(page, title).locator("svg")).to_have_count(0)
        expect(page.locator("#governor-why")).to_have_text("Nothing that it could act upon is measured on this box.")
        expect(page.locator("#pressures .unknown")).to_have_count(4)
        picture(page, "no-sensors")


def test_sensors_that_cannot_be_read_are_named(chromium, tmp_path):
    sensors = Sensors(tmp_path)  # not set going: the counter stands still
    for broken in ("class/powercap/intel-rapl:0/energy_uj", "class/power_supply/BAT0/power_now", "class/hwmon/hwmon0/power1_input", "class/thermal/thermal_zone0/temp"):
        (sensors.sysfs / broken).write_text("garbage")
    with gateway(env=sensors.settings()) as server, opened(chromium, url_of(server)) as page:
        expect(card(page, "Power").locator(".detail")).to_contain_text("rapl. The server's log says why.")
        expect(card(page, "Temperature").locator(".detail")).to_have_text("Cannot be read: thermal. The server's log says why.")
        expect(page.locator("#silent")).to_contain_text("battery, ina226/1, rapl")
        expect(page.locator("#pressures .meter").filter(has_text="Power").locator(".unknown")).to_have_text("not measured")
        expect(page.locator("#pressures .meter").filter(has_text="Memory").locator(".share")).to_have_text("40 %")
        picture(page, "silent-sensors")


def test_a_box_with_sensors_shows_watts_degrees_memory_and_the_governor(chromium, box):
    server, _ = box
    with opened(chromium, url_of(server)) as page:
        power = card(page, "Power")
        # The board's draw, of which the battery tells, has no budget.
        expect(power.locator(".number")).to_have_text(re.compile(r"^(7\.9|8|8\.1) W$"), timeout=SOON)
        expect(power.locator(".detail")).to_have_text("of 20 W, 12 W left · processor")
        expect(power.locator("path.limit")).to_have_count(1, timeout=SOON)
        # The zone that is nearest to its limit.
        expect(card(page, "Temperature").locator(".number")).to_have_text("61 °C")
        expect(card(page, "Temperature").locator(".detail")).to_have_text("24 °C below its limit · x86_pkg_temp")
        expect(card(page, "Memory").locator(".number")).to_have_text("412 MiB")
        expect(card(page, "Memory").locator(".detail")).to_have_text("of 1 GiB, 612 MiB left")
        expect(page.locator("#governor-level")).to_have_text("Full service")
        expect(page.locator("#governor-why")).to_have_text("Nothing that is measured is short.")
        expect(page.locator("#pressures .meter").filter(has_text="Power").locator(".share")).to_have_text(re.compile("^3[345] %$"))


def test_what_an_answer_cost_is_measured(chromium, box):
    server, _ = box
    with opened(chromium, url_of(server)) as page:
        ask(page)
        expect(page.locator(".cost")).to_have_text(re.compile(r" · 0?[\d.]+ J$"))


@pytest.mark.parametrize(("resource", "name"), [("thermal", "heat"), ("power", "power"), ("memory", "memory")])
def test_a_rehearsed_shortage_is_shown_with_its_reason_and_its_end(chromium, box, resource, name):
    server, sensors = box
    with opened(chromium, url_of(server)) as page:
        expect(page.locator("#governor-level")).to_have_text("Full service", timeout=SOON)
        sensors.rehearse(resource, 0.95)
        try:
            expect(page.locator("#status-title")).to_have_text("Refusing requests", timeout=SOON)
            expect(page.locator("#status-why")).to_contain_text({"thermal": "Too hot", "power": "Short of power", "memory": "memory"}[resource])
            expect(page.locator("#status-why")).to_contain_text("This is a rehearsal.")
            expect(page.locator("#governor-level")).to_have_text("New requests refused")
            expect(page.locator("#governor-why")).to_contain_text(f"Level 6 of 6, because of {name} (a rehearsal).")
            expect(page.locator("#pressures .note-tag")).to_have_text("rehearsed")
            ask(page)
            expect(page.locator(".failed .cost")).to_contain_text(re.compile(r"Try again in \d+ s"))
            expect(page.locator("#actions li").first).to_contain_text(f"for {name}", timeout=SOON)
            picture(page, f"shedding-{resource}")
        finally:
            sensors.rehearse(resource, None)
        expect(page.locator("#status-title")).to_have_text("Ready", timeout=SOON)
        expect(page.locator("#governor-level")).to_have_text("Full service", timeout=2 * SOON)
        ask(page)
        expect(page.locator(".answer .text").last).to_contain_text("aisle 12", timeout=SOON)


def test_models_that_do_not_chat_are_listed_and_not_offered(chromium, server):
    def models(*chatting):
        embedder = {"id": "minilm", "edgellm": {"state": "ready", "kind": "embedding", "dimensions": 384, "architecture": "bert"}}
        return replying(200, {"object": "list", "data": [embedder, *chatting]})

    kiosk = {"id": "kiosk", "edgellm": {"state": "ready", "kind": "chat"}}
    with opened(chromium, url_of(server), {"v1/models": models(kiosk)}) as page:
        expect(page.locator("#models")).to_contain_text("embedding, 384 dimensions")
        expect(page.locator("#chat-model-row")).to_be_hidden()
        ask(page)
        expect(page.locator(".answer .text")).to_contain_text("aisle 12")
    with opened(chromium, url_of(server), {"v1/models": models()}) as page:
        expect(page.get_by_text("None of the models here can chat.")).to_be_visible()
        expect(page.get_by_role("button", name="Send")).to_be_disabled()


@pytest.mark.parametrize(("reason", "title"), [("loading", "Loading"), ("draining", "Draining"), ("power", "Refusing requests"), ("thermal", "Refusing requests"),
                                               ("memory", "Refusing requests"), ("queue_full", "Refusing requests"), ("failed", "Failed"), ("something_new", "Refusing requests")])
def test_it_says_why_requests_are_refused(chromium, server, reason, title):
    answer = replying(503, {"status": reason, "models": [{"model": "kiosk", "reason": reason}]})
    with opened(chromium, url_of(server), {"ready": answer}) as page:
        expect(page.locator("#status-title")).to_have_text(title)
        expect(page.locator("#status-why")).not_to_be_empty()
        picture(page, f"refusing-{reason}")


def test_a_refusal_is_told_in_the_chat_with_when_to_come_back(chromium, server):
    def refuse(route):
        route.fulfill(status=503, headers={"retry-after": "7"}, json={"error": {"message": "over the power budget", "type": "overloaded_error", "param": None, "code": "power"}})

    with opened(chromium, url_of(server), {"v1/chat/completions": refuse}) as page:
        ask(page)
        expect(page.locator(".failed .cost")).to_have_text("Short of power; new requests are refused until the draw falls. Try again in 7 s.")
        expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_an_answer_can_be_stopped(chromium, server):
    with opened(chromium, url_of(server), {"v1/chat/completions": lambda route: None}) as page:
        ask(page)
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".cost")).to_have_text("Stopped.")
        expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_it_notices_a_stopped_server_and_goes_on_when_it_is_back(chromium):
    with gateway() as server:
        with opened(chromium, url_of(server)) as page:
            expect(page.locator("#status-title")).to_have_text("Ready")
            assert server.stop() == 0
            expect(page.locator("#status-title")).to_have_text("Not reachable", timeout=SOON)
            ask(page)
            expect(page.locator(".failed .cost")).to_have_text("The server cannot be reached.")
            picture(page, "unreachable")
            with gateway(port=server.port):
                expect(page.locator("#status-title")).to_have_text("Ready", timeout=SOON)
                ask(page)
                expect(page.locator(".answer .text").nth(1)).to_contain_text("aisle 12", timeout=SOON)
                # Counters began again at 0; no rate may be negative.
                expect(card(page, "Speed").locator(".number")).to_have_text(re.compile(r"^[\d.]+$"), timeout=SOON)


HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def test_hostile_text_stays_text(chromium, server):
    models = replying(200, {"object": "list", "data": [{"id": HOSTILE, "edgellm": {"state": HOSTILE, "architecture": HOSTILE}}, {"id": "kiosk", "edgellm": {"state": "ready"}}]})
    events = [{"choices": [{"index": 0, "delta": {"content": HOSTILE}}]}, {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"

    metrics = measuring(f'edgellm_temperature_celsius{{zone="{HOSTILE}"}} 30\n', "temperature", "thermal")
    replies = {"v1/models": models, "metrics": metrics, "v1/chat/completions": lambda route: route.fulfill(content_type="text/event-stream", body=stream)}
    with opened(chromium, url_of(server), replies) as page:
        expect(page.locator("#models")).to_contain_text(HOSTILE)
        expect(card(page, "Temperature").locator(".detail")).to_contain_text(HOSTILE)
        ask(page, HOSTILE)
        expect(page.locator(".question .text")).to_have_text(HOSTILE)
        expect(page.locator(".answer .text")).to_have_text(HOSTILE)
        assert page.locator("main img, main script, header img[src='x']").count() == 0


def test_the_keyboard_is_enough(chromium, server):
    with opened(chromium, url_of(server)) as page:
        expect(page.locator("#status-title")).to_have_text("Ready")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the chat")).to_be_focused()
        page.keyboard.press("Enter")
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "chat-question":
                break
        page.keyboard.type("When do you close?")
        page.keyboard.press("Enter")
        expect(page.locator(".answer .text")).to_contain_text("21:30")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("device", "viewport"), [("phone", PHONE), ("tablet", TABLET), ("desktop", DESKTOP)])
def test_it_is_accessible_and_fits_the_screen(chromium, box, device, viewport, scheme):
    server, _ = box
    with opened(chromium, url_of(server), viewport=viewport, color_scheme=scheme) as page:
        expect(card(page, "Power").locator("path.limit")).to_have_count(1, timeout=SOON)
        ask(page)
        expect(page.locator(".cost")).not_to_be_empty()
        assert_accessible(page)
        picture(page, f"{device}-{scheme}")


def test_nothing_moves_for_those_who_do_not_want_it(chromium, server):
    with opened(chromium, url_of(server), reduced_motion="reduce") as page:
        expect(page.locator("#status-title")).to_have_text("Ready")
        assert page.evaluate("document.getAnimations().length") == 0
    with opened(chromium, url_of(server)) as page:
        expect(page.locator("#status-title")).to_have_text("Ready")
        assert page.evaluate("document.getAnimations().length") > 0


def test_no_file_of_the_page_turns_text_into_html():
    for script in (ROOT / "src/operator/page").glob("*.js"):
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert sink not in script.read_text(), f"{script.name} uses {sink}"
