"""Pages of other servers in a real Chromium: one that may ask streams answers, others neither read nor trigger anything."""

import json
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from gateway import Gateway, ask, gateway, wait_until
from keyed import keyed_gateway
from operator_page import SOON, opened
from operator_page import ask as ask_in_the_page
from playwright.sync_api import Browser, Page, expect

NODE_MODULES = Path(__file__).parents[1] / "clients/node/node_modules"

QUESTION = {"model": "kiosk", "messages": ask("Where is the Velmont Ground Coffee?")}

STREAM = """async ([url, question, key]) => {
    const headers = { 'content-type': 'application/json', ...(key && { authorization: `Bearer ${key}` }) };
    const response = await fetch(`${url}/v1/chat/completions`, { method: 'POST', headers, body: JSON.stringify({ ...question, stream: true }) });
    const pieces = [];
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) pieces.push(piece.value);
    return { status: response.status, id: response.headers.get('x-request-id'), type: response.type, pieces };
}"""

BEGINS = """async ([url, question]) => {
    const leaving = new AbortController();
    const body = JSON.stringify({ ...question, stream: true, ignore_eos: true, max_tokens: 8000 });
    const response = await fetch(`${url}/v1/chat/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body, signal: leaving.signal });
    const piece = await response.body.pipeThrough(new TextDecoderStream()).getReader().read();
    leaving.abort();
    return piece.value;
}"""

FAILS = """async ([url, options]) => {
    try {
        const response = await fetch(url, options);
        return { type: response.type, status: response.status, text: await response.text() };
    } catch (error) {
        return { type: error.name };
    }
}"""


class Kiosk(SimpleHTTPRequestHandler):
    """The web server of a kiosk's page; beside it the modules that such a page loads."""

    extensions_map = {"": "application/octet-stream", ".mjs": "text/javascript"}

    def do_GET(self):
        if self.path.startswith("/openai/"):
            return super().do_GET()
        text = b"<!doctype html><html lang=en><title>Kiosk</title><body></body></html>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def kiosk_port():
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Kiosk, directory=NODE_MODULES)) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield web.server_port
        web.shutdown()


@pytest.fixture(scope="module")
def named(launch):
    """A browser for which names lead to this machine; those are no secure contexts, so it sends no Sec-Fetch-Site to them."""
    rules = ",".join(f"MAP {name} 127.0.0.1" for name in ("evil.example", "box", "kiosk"))
    browser = launch(f"--host-resolver-rules={rules}")
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def listing(kiosk_port):
    """A server that lets the kiosk's page ask, if it is opened by 127.0.0.1 or by the name kiosk."""
    origins = f"http://127.0.0.1:{kiosk_port},http://kiosk:{kiosk_port}"
    with gateway(env={"EDGELLM__SERVER__CORS_ORIGINS": origins}) as running:
        yield running


@contextmanager
def page_at(browser: Browser, url: str):
    with browser.new_context() as session:
        page = session.new_page()
        page.goto(url)
        yield page


def work(server: Gateway) -> float:
    return server.metric("edgellm_prompt_tokens_total") + server.metric("edgellm_generation_tokens_total")


def text_of(pieces: list[str]) -> str:
    events = [line.removeprefix("data: ") for line in "".join(pieces).splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in json.loads(event)["choices"])


def assert_streams(page: Page, server: Gateway, url: str):
    streamed = page.evaluate(STREAM, [url, QUESTION, None])
    assert (streamed["status"], streamed["type"]) == (200, "cors")
    assert streamed["id"].startswith("req_")
    assert "aisle 12" in text_of(streamed["pieces"])
    # Piece by piece, and not all at once when it is done: whoever leaves after the first piece ends the answer.
    cancelled = server.metric("edgellm_requests_cancelled_total")
    assert page.evaluate(BEGINS, [url, QUESTION]).startswith("id: 1\n")
    wait_until(lambda: server.metric("edgellm_requests_cancelled_total") == cancelled + 1, "the answer ends with its page")


def test_a_listed_page_streams_an_answer(chromium, kiosk_port, listing):
    with page_at(chromium, f"http://127.0.0.1:{kiosk_port}/") as page:
        assert_streams(page, listing, f"http://127.0.0.1:{listing.port}")
        assert_streams(page, listing, f"http://localhost:{listing.port}")


def test_so_does_one_whose_browser_tells_its_origin_and_nothing_more(named, kiosk_port, listing):
    with page_at(named, f"http://kiosk:{kiosk_port}/") as page:
        assert page.evaluate("isSecureContext") is False
        assert_streams(page, listing, f"http://box:{listing.port}")


def test_openais_sdk_asks_out_of_a_listed_page_with_a_key_of_the_pages_own(chromium, kiosk_port, tmp_path):
    with keyed_gateway(tmp_path, env={"EDGELLM__SERVER__CORS_ORIGINS": f"http://127.0.0.1:{kiosk_port}"}) as box:
        key = box.add("kiosk", "--requests-per-minute", "60")
        with page_at(chromium, f"http://127.0.0.1:{kiosk_port}/") as page:
            answer = page.evaluate("""async ([baseURL, apiKey, question]) => {
                const { default: OpenAI } = await import('/openai/index.mjs');
                const client = new OpenAI({ baseURL, apiKey, dangerouslyAllowBrowser: true, maxRetries: 0 });
                const { data, response } = await client.chat.completions.create({ ...question, stream: true }).withResponse();
                let text = '';
                for await (const chunk of data) text += chunk.choices[0]?.delta?.content ?? '';
                const left = response.headers.get('x-ratelimit-remaining-requests');
                const refused = await new OpenAI({ baseURL, apiKey: 'sk-wrong', dangerouslyAllowBrowser: true }).models.list().catch((error) => error);
                return { text, left, status: refused.status, code: refused.code, id: refused.requestID };
            }""", [box.server.base_url, key, QUESTION])
        assert "aisle 12" in answer["text"] and int(answer["left"]) < 60
        assert (answer["status"], answer["code"]) == (401, "invalid_api_key") and answer["id"].startswith("req_")


def test_a_listed_page_can_read_why_it_is_refused(chromium, kiosk_port, listing):
    with page_at(chromium, f"http://127.0.0.1:{kiosk_port}/") as page:
        url = f"http://127.0.0.1:{listing.port}"
        for path, options, status, code in [
            ("/v1/nothing", {}, 404, "not_found"),
            ("/v1/chat/completions", {"method": "DELETE"}, 405, "method_not_allowed"),
            ("/v1/chat/completions", {"method": "POST", "body": "{}"}, 415, "unsupported_media_type"),
            ("/v1/chat/completions", {"method": "POST", "headers": {"content-type": "application/json"}, "body": json.dumps({**QUESTION, "model": "other"})}, 404, "model_not_found"),
        ]:
            answer = page.evaluate(FAILS, [url + path, options])
            assert (answer["status"], json.loads(answer["text"])["error"]["code"]) == (status, code)


@pytest.mark.parametrize("origin", ["http://localhost", "http://127.0.0.1"])
def test_a_page_that_is_not_listed_reads_and_triggers_nothing(chromium, kiosk_port, server, origin):
    assert_shut_out(chromium, f"{origin}:{kiosk_port}/", server, f"http://127.0.0.1:{server.port}")


def test_nor_does_one_of_which_only_the_origin_is_told(named, kiosk_port, server):
    assert_shut_out(named, f"http://kiosk:{kiosk_port}/", server, f"http://box:{server.port}")


def test_the_name_of_a_listed_page_does_not_help_another(chromium, kiosk_port, listing):
    assert_shut_out(chromium, f"http://localhost:{kiosk_port}/", listing, f"http://127.0.0.1:{listing.port}")


def assert_shut_out(browser: Browser, kiosk: str, server: Gateway, url: str):
    before, refused = work(server), server.metric("edgellm_requests_total", 'status="403"')
    chat, body = f"{url}/v1/chat/completions", json.dumps(QUESTION)
    with page_at(browser, kiosk) as page:
        failed = {"type": "TypeError"}
        # A preflight comes first, and is refused.
        assert page.evaluate(FAILS, [chat, {"method": "POST", "headers": {"content-type": "application/json"}, "body": body}]) == failed
        # None comes before these.
        assert page.evaluate(FAILS, [chat, {"method": "POST", "headers": {"content-type": "text/plain"}, "body": body}]) == failed
        assert page.evaluate(FAILS, [f"{url}/v1/models", {}]) == failed
        sent = page.evaluate(FAILS, [chat, {"method": "POST", "mode": "no-cors", "headers": {"content-type": "text/plain"}, "body": body}])
        assert sent in ({"type": "opaque", "status": 0, "text": ""}, failed)
        assert server.metric("edgellm_requests_total", 'status="403"') >= refused + 4
        # A form leads the browser to the refusal itself.
        with page.expect_navigation():
            page.evaluate("""([url, body]) => {
                const form = Object.assign(document.createElement('form'), { method: 'POST', action: url, enctype: 'text/plain' });
                form.append(Object.assign(document.createElement('input'), { name: body.slice(0, -1) + ', "x": "', value: '"}' }));
                document.body.append(form);
                form.submit();
            }""", [chat, body])
        error = json.loads(page.locator("body").inner_text().splitlines()[-1])["error"]
        assert error["code"] == "origin_not_allowed"
        assert f'"{kiosk.rstrip("/")}"' in error["message"] and "server.cors_origins" in error["message"]
    assert work(server) == before


def test_no_page_takes_the_servers_answers_into_itself(chromium, kiosk_port, server):
    with page_at(chromium, f"http://127.0.0.1:{kiosk_port}/") as page:
        for tag, attribute, path in (("img", "src", "/page/icon.svg"), ("script", "src", "/page/main.js")):
            loaded = page.evaluate("""([tag, attribute, url]) => new Promise((resolve) => {
                const element = document.createElement(tag);
                element.onload = () => resolve(true);
                element.onerror = () => resolve(false);
                element[attribute] = url;
                document.body.append(element);
            })""", [tag, attribute, f"http://127.0.0.1:{server.port}{path}"])
            assert loaded is False, tag


def test_a_link_leads_to_the_operator_page(chromium, kiosk_port, server):
    with page_at(chromium, f"http://localhost:{kiosk_port}/") as page:
        page.evaluate("(url) => { location.href = url }", f"http://127.0.0.1:{server.port}/")
        expect(page.locator("#status-title")).to_have_text("Ready", timeout=SOON)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_operator_page_asks_its_own_server(chromium, server, host):
    with opened(chromium, f"http://{host}:{server.port}/") as page:
        ask_in_the_page(page)
        expect(page.locator(".answer .text")).to_contain_text("aisle 12", timeout=SOON)


def test_so_it_does_by_the_name_of_the_box(named, server):
    with opened(named, f"http://box:{server.port}/") as page:
        ask_in_the_page(page)
        expect(page.locator(".answer .text")).to_contain_text("aisle 12", timeout=SOON)


def test_a_name_that_was_rebound_to_this_machine_opens_nothing(named, server):
    before = work(server)
    with page_at(named, f"http://evil.example:{server.port}/") as page:
        assert "host_not_allowed" in page.locator("body").inner_text()
        answer = page.evaluate(FAILS, ["/v1/chat/completions", {"method": "POST", "headers": {"content-type": "application/json"}, "body": json.dumps(QUESTION)}])
        assert (answer["type"], answer["status"]) == ("basic", 403)
    assert work(server) == before
