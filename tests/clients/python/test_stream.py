"""Server-sent events: the same text in pieces, many at once, and clients that leave."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import sse
from gateway import ask, gateway, open_stream, wait_until

KIOSKS = 16
QUESTIONS = [f"{start} {product}?" for start in ("How much is the", "Where is the", "How many are left of the", "Do you have the")
             for product in ("Brindle Oat Bar", "Quarry Sparkling Water", "Velmont Ground Coffee", "Osprey Sun Lotion")]


def plain(client, question: str) -> str:
    return client.chat.completions.create(model="kiosk", messages=ask(question), temperature=0).choices[0].message.content


def streamed(client, question: str) -> str:
    """The text of a stream, after checking that it is whole: one role first, one finish reason last."""
    chunks = list(client.chat.completions.create(model="kiosk", messages=ask(question), temperature=0, stream=True))
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_a_stream_says_what_the_plain_answer_says(client):
    assert streamed(client, QUESTIONS[0]) == plain(client, QUESTIONS[0])


def test_the_wire_format_is_events_ended_by_done(server):
    answer = server.chat(stream=True, temperature=0)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    *lines, done = [line for line in answer.text.split("\n") if line]
    assert done == "data: [DONE]"
    for line in lines:
        assert line.startswith(("data: {", "id: ", ":")), line
    assert answer.text.endswith("\n\n")


def test_usage_comes_in_a_last_chunk_when_asked_for(client):
    *chunks, last = client.chat.completions.create(
        model="kiosk", messages=ask(QUESTIONS[0]), temperature=0, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stop_string_never_leaks_into_a_stream(client):
    whole = plain(client, QUESTIONS[0])
    stop = whole[len(whole) // 2:][:6]
    chunks = client.chat.completions.create(model="kiosk", messages=ask(QUESTIONS[0]), temperature=0, stream=True, stop=stop)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole[:whole.index(stop)]


def test_sixteen_kiosks_at_once_all_get_what_they_get_alone(client):
    alone = [plain(client, question) for question in QUESTIONS]
    with ThreadPoolExecutor(KIOSKS) as kiosks:
        together = list(kiosks.map(lambda question: streamed(client, question), QUESTIONS))
    assert together == alone


def test_no_character_is_split_between_two_chunks(server):
    answer = server.chat("Grüße? 🧀", stream=True, temperature=1.9, seed=5, max_tokens=200, ignore_eos=True)
    for line in answer.text.split("\n"):
        if line.startswith("data: {"):
            json.loads(line[6:])["choices"][0]["delta"].get("content", "").encode("utf-8")


def test_a_client_that_leaves_frees_its_place(server):
    cancelled_before = server.metric("edgellm_requests_cancelled_total")
    connection, response = open_stream(server)
    response.close()
    connection.close()
    wait_until(lambda: server.metric("edgellm_requests_cancelled_total") == cancelled_before + 1, "the request is counted as cancelled")
    wait_until(lambda: server.metric("edgellm_requests_running") == 0, "no request runs")


def test_the_role_comes_alone_and_first_and_the_reason_alone_and_last(server):
    events = server.chat(QUESTIONS[0], stream=True, temperature=0, stream_options={"include_usage": True}).events()
    first, *_, last, usage = [event.json() for event in events[:-1]]
    assert first["choices"][0]["delta"]["role"] == "assistant" and not first["choices"][0]["delta"].get("content")
    assert last["choices"][0]["delta"] == {} and last["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == [] and usage["usage"]["total_tokens"] > 0
    assert all(event.json()["usage"] is None for event in events[:-2])


def test_there_is_no_usage_where_nobody_asked(server):
    for options in ({}, {"stream_options": {"include_usage": False}}, {"stream_options": None}):
        events = server.chat(QUESTIONS[0], stream=True, temperature=0, **options).events()[:-1]
        assert all(event.json().get("usage") is None and event.json()["choices"] for event in events)


def test_a_stream_of_one_token_is_whole(server):
    *_, last, done = server.chat(stream=True, max_tokens=1, ignore_eos=True).events()
    assert last.json()["choices"][0]["finish_reason"] == "length" and done.data == sse.DONE


def test_a_request_that_is_refused_is_no_stream(server):
    answer = server.chat(stream=True, temperature=9)
    assert answer.status == 400 and answer.headers["content-type"].startswith("application/json")
    assert answer.error()["param"] == "temperature"


def no_time_to_wait():
    """A server that may be told to end in the middle of long answers, and lets them end for one second only."""
    return gateway(env={"EDGELLM__SERVER__SHUTDOWN_GRACE_SECONDS": "1"})


def keep_busy(server, count: int) -> list:
    """So many answers of a second or more each; what is returned keeps them going."""
    return [open_stream(server, max_tokens=1_800, messages=ask(f"Question {number}")) for number in range(count)]


def test_an_error_in_mid_stream_is_an_error_event_and_the_end():
    """Nothing else can be provoked from outside than a server that is told to end and has no time to wait."""
    with no_time_to_wait() as server:
        busy = keep_busy(server, 16)
        connection, response = busy[-1]
        server.process.terminate()
        *chunks, last = sse.read(response.read().decode()).events
        assert set(last.json()["error"]) == {"message", "type", "param", "code"}
        assert (last.json()["error"]["type"], last.json()["error"]["code"]) == ("overloaded_error", "draining")
        assert all("error" not in chunk.json() for chunk in chunks)


def test_the_sdk_raises_an_error_in_mid_stream():
    with no_time_to_wait() as server, openai.OpenAI(base_url=server.base_url, api_key="unused", max_retries=0) as client:
        busy = keep_busy(server, 15)
        stream = client.chat.completions.create(model="kiosk", messages=ask(QUESTIONS[0]), stream=True, max_tokens=1_800, extra_body={"ignore_eos": True})
        next(stream)
        server.process.terminate()
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        assert len(busy) == 15


def test_who_waits_is_told_the_place_in_the_queue_in_a_comment_that_sdks_skip():
    """One row, and long answers before the last two clients, whose connections are kept alive until the others leave."""
    with gateway("--max-running", "1") as server, openai.OpenAI(base_url=server.base_url, api_key="unused", max_retries=0, timeout=120) as client:
        alone = plain(client, QUESTIONS[0])
        busy = keep_busy(server, 50)
        _, response = open_stream(server, messages=ask(QUESTIONS[0]), temperature=0)
        with ThreadPoolExecutor(1) as other:
            through_the_sdk = other.submit(streamed, client, QUESTIONS[0])
            text = ""
            while not any(character.isdigit() for comment in sse.read(text).comments for character in comment):
                line = response.readline().decode()
                assert line, f"it ended without a comment that tells the place:\n{text}"
                text += line
            for connection, _ in busy:
                connection.close()
            reader = sse.read(text + response.read().decode())
        assert reader.events[-1].data == sse.DONE
        assert through_the_sdk.result() == alone
