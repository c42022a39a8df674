"""`patiently` of docs/restarts.md waits as long as it is told, and gives up where asking again does not help."""

import json
import re
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import openai
import pytest
from pages import ROOT

[CODE] = [code for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs/restarts.md").read_text(), re.DOTALL) if "def patiently" in code]
THERE = (200, {}, {"object": "list", "data": []})


class Clock:
    """Stands still but for those who sleep."""

    def __init__(self):
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float):
        self.slept.append(seconds)


def error(status: int, code: str, message: str = "wait", **headers: str):
    return status, headers, {"error": {"message": message, "code": code, "type": "error", "param": None}}


@pytest.fixture
def ask_a_box():
    """Calls `patiently` with a box that gives these answers, one after the other; returns how long it slept each time."""
    boxes = []

    def ask(*answers):
        left = list(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                status, headers, body = left.pop(0)
                self.send_response(status)
                for name, value in {**headers, "content-type": "application/json", "connection": "close"}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_):
                pass

        box = HTTPServer(("127.0.0.1", 0), Handler)
        boxes.append(box)
        Thread(target=box.serve_forever, daemon=True).start()
        advised: dict = {}
        exec(CODE, advised)  # noqa: S102
        clock = advised["time"] = Clock()
        with openai.OpenAI(base_url=f"http://127.0.0.1:{box.server_port}/v1", api_key="unused", max_retries=0) as client:
            try:
                advised["patiently"](client.models.list)
            finally:
                ask.asked = len(answers) - len(left)
        return clock.slept

    yield ask
    for box in boxes:
        box.shutdown()
        box.server_close()


def test_it_waits_as_long_as_it_is_told_and_asks_again(ask_a_box):
    slept = ask_a_box(error(503, "loading", retry_after="7"), error(429, "rate_limit_exceeded", retry_after="3"), error(503, "draining"), THERE)
    assert slept == [7, 3, 5]


@pytest.mark.parametrize("answer", [
    error(503, "memory", "the model `large` cannot be loaded now: it needs about 9000 MiB of memory, and at most 3000 MiB", retry_after="30"),
    error(500, "internal"),
    error(404, "model_not_found"),
    error(401, "invalid_api_key"),
])
def test_it_does_not_repeat_what_does_not_help(ask_a_box, answer):
    with pytest.raises(openai.APIStatusError):
        ask_a_box(answer, THERE)
    assert ask_a_box.asked == 1


def test_it_gives_up_after_ten_minutes(ask_a_box):
    with pytest.raises(TimeoutError, match="does not answer"):
        ask_a_box(*[error(503, "queue_full", retry_after="100")] * 20)
    assert ask_a_box.asked == 7
