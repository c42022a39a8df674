"""curl, as a technician types it."""

import json
import subprocess

import documented
import sse
from gateway import ask

QUESTION = "How much is the Brindle Oat Bar?"


def curl(server, path: str, body: dict | None = None, *options: str) -> str:
    data = [] if body is None else ["-H", "content-type: application/json", "--data-binary", "@-"]
    done = subprocess.run(["curl", "-sS", "--max-time", "60", *options, *data, f"http://127.0.0.1:{server.port}{path}"],
                          input=json.dumps(body), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def chat(**parameters) -> dict:
    return {"model": "kiosk", "messages": ask(QUESTION), "temperature": 0, **parameters}


def test_an_answer(server):
    answer = json.loads(curl(server, "/v1/chat/completions", chat()))
    documented.check("CreateChatCompletionResponse", answer, "curl's answer")
    assert "2.49" in answer["choices"][0]["message"]["content"]


def test_a_stream(server):
    events = sse.read(curl(server, "/v1/chat/completions", chat(stream=True), "-N")).events
    documented.check_stream("CreateChatCompletionStreamResponse", events)
    assert "2.49" in "".join(choice["delta"].get("content", "") for event in events[:-1] for choice in event.json()["choices"])


def test_an_error_with_its_status(server):
    body, _, status = curl(server, "/v1/chat/completions", chat(temperature=9), "-w", "\n%{http_code}").rpartition("\n")
    assert status == "400" and json.loads(body)["error"]["param"] == "temperature"
    subprocess.run(["curl", "-sSf", "-o", "/dev/null", f"http://127.0.0.1:{server.port}/health"], check=True)


def test_a_stream_that_was_lost_goes_on(server):
    """A technician sees with two commands that it works."""
    named = ("-H", "x-request-id: technician-1")
    body = chat(stream=True, max_tokens=60, ignore_eos=True)
    whole = sse.read(curl(server, "/v1/chat/completions", body, *named, "-N")).events
    rest = sse.read(curl(server, "/v1/chat/completions", body, *named, "-H", f"last-event-id: {whole[9].id}", "-N")).events
    assert [event.data for event in rest] == [event.data for event in whole[10:]]


def test_a_large_body_that_asks_first_is_told_to_go_on(server):
    """curl sends `expect: 100-continue` with a body over a megabyte, and waits."""
    body = {**chat(), "messages": ask("word " * 300_000)}
    assert json.loads(curl(server, "/v1/chat/completions", body, "-H", "expect: 100-continue"))["error"]["code"] == "context_length_exceeded"
