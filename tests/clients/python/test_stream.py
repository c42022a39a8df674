"""Server-sent events: the same text in pieces, many at once, and clients that leave."""

import json
from concurrent.futures import ThreadPoolExecutor

from gateway import ask, open_stream, wait_until

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
    *chunks, done = [line for line in answer.text.split("\n") if line]
    assert done == "data: [DONE]"
    for chunk in chunks:
        assert chunk.startswith("data: {") or chunk.startswith(":"), chunk


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
