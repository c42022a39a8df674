"""x-deadline-ms: what cannot be answered in time is refused, and what passes its deadline is dropped or cut off."""

import time
from contextlib import contextmanager
from statistics import median

import pytest
import sse
from gateway import Gateway, ask, both_models, gateway, open_stream, wait_until
from openai import InternalServerError, OpenAI

CHAT = "/v1/chat/completions"
WITHIN = "x-deadline-ms"
# An answer that takes seconds, whatever the model would say.
LONG = {"ignore_eos": True, "max_tokens": 3000}
DROPPED = ("edgellm_deadline_passed_total", 'stage="waiting"')
CUT = ("edgellm_deadline_passed_total", 'stage="running"')
REJECTED = ("edgellm_requests_rejected_total", 'reason="deadline_unreachable"')


def chat(server: Gateway, within: int | None = None, **parameters):
    body = {"model": "kiosk", "messages": ask("Where is the coffee?"), **parameters}
    return server.post(CHAT, body, {} if within is None else {WITHIN: str(within)})


def unreachable(answer) -> str:
    """The message of a refusal that is as it should be."""
    error = answer.error()
    assert (answer.status, error["type"], error["code"]) == (503, "overloaded_error", "deadline_unreachable"), error
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    return error["message"]


@contextmanager
def occupied(server: Gateway, **parameters):
    """A server whose only row writes a long answer."""
    connection, _ = open_stream(server, **{**LONG, **parameters})
    try:
        yield
    finally:
        connection.close()
        wait_until(lambda: server.metric("edgellm_requests_running") == 0, "the long answer is given up")


@pytest.fixture(scope="module")
def fresh():
    """A server with a single row that never had a whole answer: it refuses nothing by an estimate."""
    with gateway("--max-running", 1) as server:
        yield server
        assert server.stop() == 0, server.log_text()
        assert "panicked" not in server.log_text()


@pytest.fixture(scope="module")
def experienced():
    with gateway("--max-running", 1) as server:
        for _ in range(3):
            for _ in range(6):
                assert chat(server, max_tokens=40, ignore_eos=True).status == 200
            assert chat(server, **LONG).status == 200
            assert chat(server, max_tokens=5).status == 200
        yield server
        assert server.stop() == 0, server.log_text()
        assert "panicked" not in server.log_text()


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "soon", "", "86400001", "1e3", "5, 5", "9" * 40])
@pytest.mark.parametrize(("path", "body"), [(CHAT, {"messages": ask("Hello")}), ("/v1/completions", {"prompt": "Hello"}),
                                            ("/v1/responses", {"input": "Hello"}), ("/v1/embeddings", {"input": "Hello"})])
def test_what_is_no_time_is_refused_by_name(fresh, path, body, value):
    answer = fresh.post(path, body, {WITHIN: value})
    assert answer.status == 400
    assert answer.error()["param"] == WITHIN


def test_two_different_deadlines_are_none(fresh):
    body = b'{"messages":[{"role":"user","content":"Hello"}],"max_tokens":1}'
    for values, status in ((("60000", "60000"), 200), (("60000", "5000"), 400)):
        connection = fresh.connect()
        connection.putrequest("POST", CHAT)
        for value in values:
            connection.putheader(WITHIN, value)
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        assert response.status == status, response.read()
        connection.close()


def test_an_answer_under_way_ends_with_what_there_is(fresh):
    before = fresh.metric(*CUT)
    began = time.monotonic()
    body = chat(fresh, 400, **LONG).json()
    assert time.monotonic() - began < 2
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["edgellm"] == {"deadline": True}
    assert 0 < body["usage"]["completion_tokens"] < LONG["max_tokens"]
    assert body["choices"][0]["message"]["content"]

    chunks = [event.json() for event in chat(fresh, 400, stream=True, **LONG).events() if event.data != sse.DONE]
    marked = [chunk for chunk in chunks if "edgellm" in chunk]
    assert [chunk["choices"][0]["finish_reason"] for chunk in marked] == ["length"]
    assert marked[0] is chunks[-1] and marked[0]["edgellm"] == {"deadline": True}

    completion = fresh.post("/v1/completions", {"prompt": "Hello", **LONG}, {WITHIN: "400"}).json()
    assert (completion["choices"][0]["finish_reason"], completion["edgellm"]) == ("length", {"deadline": True})

    response = fresh.post("/v1/responses", {"input": "Tell me about coffee", "ignore_eos": True, "max_output_tokens": 3000}, {WITHIN: "400"}).json()
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["edgellm"] == {"deadline": True}
    assert fresh.metric(*CUT) == before + 4


def test_the_openai_sdk_reads_an_answer_that_was_cut_off(fresh):
    with OpenAI(base_url=fresh.base_url, api_key="unused", max_retries=0) as sdk:
        answer = sdk.chat.completions.create(model="kiosk", messages=ask("Hello"), max_tokens=3000, extra_body={"ignore_eos": True}, extra_headers={WITHIN: "400"})
        assert answer.choices[0].finish_reason == "length"
        assert answer.model_extra["edgellm"] == {"deadline": True}
        whole = sdk.chat.completions.create(model="kiosk", messages=ask("Hello"), max_tokens=2, extra_headers={WITHIN: "60000"})
        assert "edgellm" not in whole.model_extra


def test_one_that_waits_past_its_deadline_is_dropped_and_counted():
    with gateway("--max-running", 1) as server, occupied(server):
        began = time.monotonic()
        message = unreachable(chat(server, 300, max_tokens=5))
        assert 0.3 <= time.monotonic() - began < 2
        assert WITHIN in message
        assert server.metric(*DROPPED) == 1
        assert server.metric(*REJECTED) == 1
        wait_until(lambda: server.metric("edgellm_requests_waiting") == 0, "nobody waits")

        answer = chat(server, 300, max_tokens=5, stream=True)
        assert answer.status == 200, "its headers were out"
        assert answer.events()[-1].json()["error"]["code"] == "deadline_unreachable"
        assert server.metric(*DROPPED) == 2


def test_what_cannot_be_met_is_refused_at_once(experienced):
    before = experienced.metric(*REJECTED)
    answer = chat(experienced, 100, **LONG)
    assert "even if no other request" in unreachable(answer)
    assert int(answer.headers["x-estimated-ms"]) > 100
    assert experienced.metric(*REJECTED) == before + 1
    with occupied(experienced):
        message = unreachable(chat(experienced, 200, max_tokens=5))
        assert "retry-after" in message and "200 ms" in message
        assert chat(experienced, 60_000, max_tokens=5).status == 200


def test_an_estimate_comes_with_the_headers_of_whoever_has_a_deadline(experienced):
    assert "x-estimated-ms" not in chat(experienced, max_tokens=40, ignore_eos=True).headers
    ratios = []
    for stream in (False, True) * 8:
        began = time.monotonic()
        answer = chat(experienced, 60_000, max_tokens=200, ignore_eos=True, stream=stream)
        ratios.append(int(answer.headers["x-estimated-ms"]) / (1000 * (time.monotonic() - began)))
    # Other programs on the machine make single answers take many times as long.
    assert 1 / 3 < median(ratios[8:]) < 3, ratios


def test_the_openai_sdk_succeeds_on_its_own_retry(experienced):
    before = experienced.metric(*REJECTED)
    parameters = {"model": "kiosk", "messages": ask("Where is the coffee?"), "max_tokens": 5, "extra_headers": {WITHIN: "200"}}
    with OpenAI(base_url=experienced.base_url, api_key="unused", timeout=60) as sdk:
        connection, _ = open_stream(experienced, **LONG)
        with pytest.raises(InternalServerError) as refused:
            sdk.with_options(max_retries=0).chat.completions.create(**parameters)
        assert refused.value.status_code == 503
        assert refused.value.code == "deadline_unreachable"
        assert int(refused.value.response.headers["retry-after"]) >= 1
        answer = sdk.with_options(max_retries=5).chat.completions.create(**parameters)
        assert answer.choices[0].message.content
        connection.close()
    assert experienced.metric(*REJECTED) >= before + 2, "the first try of the second was refused as well"


def test_a_tier_has_a_default_and_the_header_wins():
    limits = {"EDGELLM__ADMISSION__DEADLINE_MS": "400", "EDGELLM__ADMISSION__FLEX_DEADLINE_MS": "60000"}
    with gateway("--max-running", 1, env=limits) as server:
        assert chat(server, **LONG).json()["edgellm"] == {"deadline": True}
        assert chat(server, **LONG, service_tier="priority").json()["edgellm"] == {"deadline": True}
        long = {**LONG, "max_tokens": 1000}
        assert "edgellm" not in chat(server, **long, service_tier="flex").json()
        assert "edgellm" not in chat(server, 60_000, **long).json()


def test_vectors_that_come_too_late_are_not_made(tmp_path):
    with gateway("--config", both_models(tmp_path)) as server:
        texts = [f"The price of article {number} on the shelf by the door" for number in range(500)]
        embed = lambda within, texts: server.post("/v1/embeddings", {"model": "minilm", "input": texts}, {WITHIN: str(within)})
        unreachable(embed(20, texts))
        for _ in range(5):
            answer = embed(60_000, texts[:4])
            assert answer.status == 200
        assert int(answer.headers["x-estimated-ms"]) > 0
        assert "even if no other" in unreachable(embed(20, texts))
        assert server.metric(*REJECTED) == 2
        wait_until(lambda: server.metric("edgellm_requests_waiting") == 0, "nobody waits")
