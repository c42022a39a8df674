"""A stream that was cut off goes on where it stopped: Last-Event-ID and x-request-id."""

import http.client
import json
import uuid

import documented
import pytest
import sse
from gateway import ask, wait_until

CHAT = "/v1/chat/completions"
BODY = {"model": "kiosk", "messages": ask("Where is the coffee?"), "stream": True, "temperature": 0, "max_tokens": 60, "ignore_eos": True,
        "stream_options": {"include_usage": True}}


def request_id() -> str:
    return f"till-3-{uuid.uuid4()}"


class Kiosk:
    """A client that reads event by event and may lose its connection at any of them."""

    def __init__(self, server, name: str, last: str | None = None, body: dict = BODY, path: str = CHAT):
        self.connection = server.connect()
        headers = {"content-type": "application/json", "x-request-id": name, **({} if last is None else {"last-event-id": last})}
        self.connection.request("POST", path, json.dumps(body), headers)
        self.response: http.client.HTTPResponse = self.connection.getresponse()
        self.reader = sse.Reader()

    def read(self, count: int | None = None) -> list[sse.Event]:
        """The next so many events, or all up to the end."""
        events = []
        while count is None or len(events) < count:
            line = self.response.readline()
            if not line:
                assert count is None, f"the stream ended after {events}"
                break
            if event := self.reader.line(line.decode().rstrip("\r\n")):
                events.append(event)
        return events

    def lose_connection(self):
        self.response.close()
        self.connection.close()


def without_ids_and_time(events: list[sse.Event]) -> list:
    """What the events say, less what differs between two requests."""
    said = []
    for event in events:
        value = sse.DONE if event.data == sse.DONE else event.json()
        if isinstance(value, dict):
            value.pop("id", None)
            value.pop("created", None)
            (value.get("usage") or {}).pop("prompt_tokens_details", None)
        said.append(value)
    return said


def text(events: list[sse.Event]) -> str:
    return "".join(choice["delta"].get("content") or "" for event in events if event.data != sse.DONE for choice in event.json()["choices"])


def whole(server, body: dict = BODY) -> list[sse.Event]:
    events = Kiosk(server, request_id(), body=body).read()
    assert events[-1].data == sse.DONE
    return events


def test_every_event_has_an_id_of_its_own(server):
    ids = [event.id for event in whole(server)]
    assert all(ids) and len(set(ids)) == len(ids)


@pytest.mark.parametrize("after", [1, 2, 7, 20])
def test_a_lost_stream_goes_on_where_it_stopped(server, after):
    name = request_id()
    kiosk = Kiosk(server, name)
    first = kiosk.read(after)
    kiosk.lose_connection()
    again = Kiosk(server, name, last=first[-1].id)
    assert again.response.status == 200, again.response.read()
    assert again.response.headers["content-type"].startswith("text/event-stream")
    rest = again.read()
    documented.check_stream("CreateChatCompletionStreamResponse", first + rest)
    assert len({event.id for event in first + rest}) == len(first + rest)
    assert text(first + rest) == text(whole(server))
    assert without_ids_and_time((first + rest)[-2:]) == without_ids_and_time(whole(server)[-2:])


def test_a_stream_may_be_lost_again_and_again(server):
    name, received = request_id(), []
    kiosk = Kiosk(server, name)
    for _ in range(5):
        received += kiosk.read(6)
        kiosk.lose_connection()
        kiosk = Kiosk(server, name, last=received[-1].id)
    received += kiosk.read()
    documented.check_stream("CreateChatCompletionStreamResponse", received)
    assert text(received) == text(whole(server))


def test_a_stream_that_ended_unseen_is_still_told(server):
    """The answer went on without its reader and is there when the reader is back."""
    name = request_id()
    kiosk = Kiosk(server, name)
    first = kiosk.read(3)
    kiosk.lose_connection()
    wait_until(lambda: server.metric("edgellm_requests_running") == 0, "the answer is made")
    rest = Kiosk(server, name, last=first[-1].id).read()
    assert text(first + rest) == text(whole(server))
    assert rest[-1].data == sse.DONE


def test_the_same_rest_may_be_asked_for_twice(server):
    """The connection may break again before anything of the rest has arrived."""
    name = request_id()
    kiosk = Kiosk(server, name)
    first = kiosk.read(4)
    kiosk.lose_connection()
    once = Kiosk(server, name, last=first[-1].id).read()
    twice = Kiosk(server, name, last=first[-1].id).read()
    assert [event.data for event in once] == [event.data for event in twice]


def test_nothing_is_left_after_the_last_event(server):
    name = request_id()
    kiosk = Kiosk(server, name)
    events = kiosk.read()
    again = Kiosk(server, name, last=events[-1].id)
    rest = again.response.read().decode()
    assert again.response.status in (200, 204), rest
    assert not sse.read(rest).events


def test_an_answer_is_computed_once_however_often_it_is_resumed(server):
    wait_until(lambda: server.metric("edgellm_requests_running") == 0, "nothing runs")
    before = server.metric("edgellm_generation_tokens_total")
    name = request_id()
    kiosk = Kiosk(server, name)
    first = kiosk.read(3)
    kiosk.lose_connection()
    Kiosk(server, name, last=first[-1].id).read()
    Kiosk(server, name, last=first[-1].id).read()
    assert server.metric("edgellm_generation_tokens_total") - before == 60


def test_sampled_answers_are_resumed_not_made_again(server):
    body = {**BODY, "temperature": 1.9}
    name = request_id()
    kiosk = Kiosk(server, name, body=body)
    first = kiosk.read(5)
    kiosk.lose_connection()
    once = Kiosk(server, name, first[-1].id, body).read()
    twice = Kiosk(server, name, first[-1].id, body).read()
    assert [event.data for event in once] == [event.data for event in twice]
    assert {event.json()["id"] for event in first + once if event.data != sse.DONE} == {first[0].json()["id"]}


def refused(kiosk: Kiosk) -> dict:
    body = kiosk.response.read().decode()
    assert kiosk.response.status in (400, 404, 409, 410), body
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"] and error["type"] == "invalid_request_error"
    return error


def test_a_request_that_nobody_remembers_cannot_be_resumed(server):
    error = refused(Kiosk(server, request_id(), last="17"))
    assert "Last-Event-ID".lower() in (error["message"] + str(error["param"])).lower(), error


@pytest.mark.parametrize("last", ["999999", "no such event", "-1", "chatcmpl-0:3"])
def test_an_event_that_never_was_cannot_be_resumed_from(server, last):
    name = request_id()
    Kiosk(server, name).read()
    refused(Kiosk(server, name, last=last))


def test_another_request_under_the_same_name_is_not_given_the_answer(server):
    name = request_id()
    kiosk = Kiosk(server, name)
    first = kiosk.read(3)
    kiosk.lose_connection()
    other = {**BODY, "messages": ask("What is the wifi password?")}
    refused(Kiosk(server, name, first[-1].id, other))


def test_another_request_under_the_same_name_does_not_end_a_stream(server):
    """Neither one that is being computed nor one that waits for its client."""
    name = request_id()
    kiosk = Kiosk(server, name)
    first = kiosk.read(3)
    kiosk.lose_connection()
    other = {**BODY, "messages": ask("What is the wifi password?")}
    Kiosk(server, name, body=other).read()
    rest = Kiosk(server, name, last=first[-1].id).read()
    assert text(first + rest) == text(whole(server))


def test_the_same_name_without_an_event_id_is_a_new_request(server):
    name = request_id()
    first = Kiosk(server, name).read()
    second = Kiosk(server, name).read()
    assert text(second) == text(first)
    assert second[0].json()["id"] != first[0].json()["id"]


def test_who_never_gave_a_name_is_cancelled_on_leaving(server):
    """Nothing is kept for clients that cannot come back."""
    wait_until(lambda: server.metric("edgellm_requests_running") == 0, "nothing runs")
    before = server.metric("edgellm_requests_cancelled_total")
    connection = server.connect()
    connection.request("POST", CHAT, json.dumps({**BODY, "max_tokens": 1500}), {"content-type": "application/json"})
    response = connection.getresponse()
    response.readline()
    response.close()
    connection.close()
    wait_until(lambda: server.metric("edgellm_requests_cancelled_total") == before + 1, "the request is counted as cancelled")
    wait_until(lambda: server.metric("edgellm_requests_running") == 0, "no request runs")
