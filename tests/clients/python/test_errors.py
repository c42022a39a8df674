"""Bad input gets the right status and the one error body, and the server goes on."""

import json
import socket
import time
from contextlib import ExitStack

import openai
import pytest
from gateway import ask, gateway

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


@pytest.fixture(autouse=True)
def the_server_goes_on(server):
    yield
    assert server.chat(max_tokens=1).status == 200


def refused(answer, status: int, code: str | None = None, param: str | None = None) -> dict:
    assert answer.status == status, answer.text
    error = answer.error()
    if code:
        assert error["code"] == code, error
    if param:
        assert error["param"] == param, error
    return error


@pytest.mark.parametrize("body", ["", "{", "not json", "[]", '"text"', "null", '{"model": "kiosk", "messages": [}', '{"model":"kiosk"} trailing',
                                  '{"model": "kiosk", "messages": "' + "[" * 5000 + '"}', "[" * 100_000])
def test_malformed_json_is_refused(server, body):
    assert refused(server.http("POST", CHAT, body, JSON), 400)["type"] == "invalid_request_error"


def test_bytes_that_are_not_utf8_are_refused(server):
    refused(server.http("POST", CHAT, b'{"model": "kiosk", "messages": [{"role": "user", "content": "\xff\xfe"}]}', JSON), 400)


@pytest.mark.parametrize(("messages", "param"), [
    (None, "messages"),
    ([], "messages"),
    ("hello", "messages"),
    ({"role": "user", "content": "hello"}, "messages"),
    (["hello"], "messages[0]"),
    ([{"content": "hello"}], "messages[0]"),
    ([{"role": "wizard", "content": "hello"}], "messages[0].role"),
    ([{"role": 5, "content": "hello"}], "messages[0].role"),
    ([{"role": "user"}], "messages[0]"),
    ([{"role": "user", "content": 5}], "messages[0].content"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}], "messages[0].content"),
    ([{"role": "user", "content": "hello"}, {"role": "wizard", "content": "hello"}], "messages[1].role"),
])
def test_messages_that_are_wrong_are_named(server, messages, param):
    body = {"model": "kiosk"} if messages is None else {"model": "kiosk", "messages": messages}
    error = refused(server.post(CHAT, body), 400)
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or error["message"]).startswith(param) or param in error["message"], error


@pytest.mark.parametrize(("param", "value"), [
    ("temperature", -0.1), ("temperature", 2.1), ("temperature", "hot"), ("temperature", True),
    ("top_p", -0.5), ("top_p", 1.5), ("top_p", "most"),
    ("top_k", -2), ("top_k", 1.5), ("min_p", -0.1), ("min_p", 1.1),
    ("max_tokens", 0), ("max_tokens", -5), ("max_tokens", 2.5), ("max_tokens", "many"), ("max_tokens", 10**30),
    ("max_completion_tokens", 0), ("max_completion_tokens", -5),
    ("repeat_penalty", 0), ("repeat_penalty", -1), ("frequency_penalty", 2.1), ("presence_penalty", -2.1),
    ("seed", "seven"), ("stream", "yes"), ("stop", 5), ("stop", [5]), ("stop", ["1"] * 65),
    ("stop_token_ids", [-1]), ("stop_token_ids", "all"), ("n", 0), ("n", -1), ("model", 5), ("tools", "find_product"),
    ("tools", [{"type": "function"}]), ("stream_options", "usage"), ("logit_bias", "none"), ("ignore_eos", "yes"),
    ("service_tier", "scale"), ("service_tier", 1), ("prediction", "text"), ("prediction", {"type": "content"}),
])
def test_parameters_that_are_wrong_are_named(server, param, value):
    error = refused(server.chat(**{param: value}), 400)
    assert error["type"] == "invalid_request_error"
    assert param in (error["param"] or "") or param in error["message"], error


@pytest.mark.parametrize(("param", "value"), [
    ("audio", {"voice": "alloy", "format": "wav"}), ("modalities", ["text", "audio"]), ("web_search_options", {}),
])
def test_a_known_parameter_that_cannot_be_honoured_is_named(server, param, value):
    refused(server.chat(**{param: value}), 400, code="unsupported_parameter", param=param)


@pytest.mark.parametrize(("param", "value"), [("n", 1), ("logprobs", False), ("user", "till-3"), ("store", False), ("temperature", None), ("stop", None)])
def test_a_known_parameter_that_asks_for_nothing_is_taken(server, param, value):
    assert server.chat(max_tokens=1, **{param: value}).status == 200


def test_an_unknown_model_is_not_found(server):
    refused(server.chat(model="gpt-nonesuch"), 404, code="model_not_found")
    refused(server.http("GET", "/v1/models/gpt-nonesuch"), 404, code="model_not_found")


def test_a_prompt_over_the_context_is_refused(server):
    refused(server.chat("where is it? " * 20_000), 400, code="context_length_exceeded")


def test_a_body_over_the_limit_is_refused(server):
    refused(server.chat("x" * 5_000_000), 413)


def test_a_body_in_chunks_over_the_limit_is_refused(server):
    def chunks():
        yield b'{"model": "kiosk", "messages": [{"role": "user", "content": "'
        for _ in range(256):
            yield b"x" * 2**18

    connection = server.connect()
    try:
        connection.request("POST", CHAT, chunks(), JSON, encode_chunked=True)
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused while it was still being sent: the answer is waiting
    try:
        assert connection.getresponse().status == 413
    except ConnectionResetError:
        pass  # the rest of the body overtook the answer
    finally:
        connection.close()


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_another_content_type_is_refused(server, content_type):
    body = json.dumps({"model": "kiosk", "messages": ask("Hello")})
    refused(server.http("POST", CHAT, body, {"content-type": content_type} if content_type else {}), 415)


def test_json_with_a_charset_is_json(server):
    body = json.dumps({"model": "kiosk", "messages": ask("Hello"), "max_tokens": 1})
    assert server.http("POST", CHAT, body, {"content-type": "application/json; charset=utf-8"}).status == 200


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("DELETE", CHAT), ("POST", "/v1/models"), ("PUT", "/health"), ("POST", "/metrics")])
def test_another_method_is_refused(server, method, path):
    answer = server.http(method, path)
    refused(answer, 405)
    assert answer.headers["allow"]


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/chat", "/nowhere", "/v1/nothing/", "/../etc/passwd", "/%00"])
def test_an_unknown_path_is_not_found(server, path):
    refused(server.http("GET", path), 404)


def test_the_sdk_raises_its_own_exceptions(client):
    with pytest.raises(openai.NotFoundError) as not_found:
        client.chat.completions.create(model="gpt-nonesuch", messages=ask("Hello"))
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as unsupported:
        client.chat.completions.create(model="kiosk", messages=ask("Hello"), audio={"voice": "alloy", "format": "wav"})
    assert (unsupported.value.code, unsupported.value.param, unsupported.value.type) == ("unsupported_parameter", "audio", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(model="kiosk", messages=ask("where is it? " * 20_000), stream=True)
    assert too_long.value.code == "context_length_exceeded"


def test_a_client_that_sends_its_body_too_slowly_is_timed_out():
    with gateway(env={"EDGELLM__SERVER__BODY_TIMEOUT_SECONDS": "1"}) as server, socket.create_connection(("127.0.0.1", server.port), timeout=30) as kiosk:
        kiosk.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{")
        began = time.monotonic()
        status, body = read_response(kiosk)
        assert time.monotonic() - began < 20
    assert status == 408
    assert json.loads(body)["error"]["type"] == "timeout_error"


def test_clients_that_never_finish_their_bodies_hold_up_nobody(server):
    with ExitStack() as kiosks:
        for _ in range(64):
            kiosk = kiosks.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            kiosk.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{")
        for _ in range(3):
            began = time.monotonic()
            assert server.chat(max_tokens=1).status == 200
            assert time.monotonic() - began < 15, "half of server.body_timeout_seconds"


def read_response(connection: socket.socket) -> tuple[int, bytes]:
    """The status and the body of a response to a request that was never finished."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += (more := connection.recv(65536))
        assert more, f"the connection ended after {received!r}"
    head, body = received.split(b"\r\n\r\n", 1)
    headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(head.split()[1]), body
