"""Embeddings of all-MiniLM-L6-v2, held against the vectors and tokens of its own package."""

import base64
import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import minilm_reference
import numpy as np
import openai
import pytest
from gateway import MODEL, Gateway, ask, gateway, wait_until
from minilm import model_folder
from openai import OpenAI
from tokenizers import Tokenizer

EMBEDDINGS = "/v1/embeddings"
SCHEMA = json.loads(Path(__file__).with_name("embedding_response_schema.json").read_text())
REFERENCE = minilm_reference.vectors()
TEXTS = [text for text, _ in REFERENCE]
CONTEXT = 512
DIMENSIONS = 384


@pytest.fixture(scope="module")
def server(both_models):
    with gateway("--config", both_models) as running:
        yield running
        assert running.stop() == 0, running.log_text()
        assert "panicked" not in running.log_text()


@pytest.fixture(scope="module")
def client(server):
    with OpenAI(base_url=server.base_url, api_key="unused", max_retries=0, timeout=60) as sdk:
        yield sdk


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    own = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    own.no_padding()
    own.no_truncation()
    return own


def embed(server: Gateway, input, **parameters) -> np.ndarray:
    answer = server.post(EMBEDDINGS, {"model": "minilm", "input": input, **parameters})
    assert answer.status == 200, answer.text
    whole = answer.json()
    data = whole["data"]
    # Checking a number takes longer than making it.
    jsonschema.validate({**whole, "data": data[:3]}, SCHEMA)
    assert [entry["index"] for entry in data] == list(range(len(data)))
    return np.array([entry["embedding"] for entry in data], np.float32)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


def refused(server: Gateway, body: dict, param: str | None = None, code: str | None = None) -> dict:
    answer = server.post(EMBEDDINGS, {"model": "minilm", **body})
    assert answer.status == 400, answer.text
    error = answer.error()
    assert error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == (param, code), error
    return error


def test_the_vectors_are_those_of_the_models_own_package(server):
    expected = np.stack([vector for _, vector in REFERENCE])
    alone = np.concatenate([embed(server, text) for text in TEXTS])
    together = embed(server, TEXTS)
    for found in (alone, together):
        off = 1 - cosines(found, expected)
        assert off.max() < 1e-3, TEXTS[int(off.argmax())]
        assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5


def test_the_tokens_are_those_of_the_models_own_tokenizer(server, tokenizer):
    for text in TEXTS:
        made = server.post("/tokenize", {"model": "minilm", "prompt": text}).json()
        assert made["tokens"] == tokenizer.encode(text).ids, text
        assert made["max_model_len"] == CONTEXT
        bare = server.post("/tokenize", {"model": "minilm", "prompt": text, "add_special_tokens": False}).json()
        assert bare["tokens"] == made["tokens"][1:-1]


def test_tokens_give_the_vector_of_their_text(server, tokenizer):
    some = TEXTS[::5]
    lists = [tokenizer.encode(text).ids for text in some]
    assert cosines(embed(server, lists), embed(server, some)).min() > 0.9999
    assert np.array_equal(embed(server, lists[0]), embed(server, [lists[0]]))


def test_texts_of_like_meaning_are_near_each_other(server):
    question, answer, other = embed(server, ["Where is the coffee?", "You find coffee in aisle 12.", "The moon is far away."])
    assert question @ answer > question @ other + 0.3


def test_usage_counts_every_token_once(server, tokenizer):
    texts = ["hello world", "Where is the coffee?"]
    usage = server.post(EMBEDDINGS, {"model": "minilm", "input": texts}).json()["usage"]
    tokens = sum(len(tokenizer.encode(text).ids) for text in texts)
    assert usage == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_the_sdk_gets_the_same_numbers_in_both_encodings(client):
    """Left to itself the SDK asks for base64 and decodes it."""
    by_default = client.embeddings.create(model="minilm", input=["hello", "world"])
    as_floats = client.embeddings.create(model="minilm", input=["hello", "world"], encoding_format="float")
    as_text = client.embeddings.create(model="minilm", input=["hello", "world"], encoding_format="base64")
    assert (by_default.model, by_default.object, len(by_default.data)) == ("minilm", "list", 2)
    for default, floats, text in zip(by_default.data, as_floats.data, as_text.data, strict=True):
        assert len(floats.embedding) == DIMENSIONS
        assert np.array_equal(np.float32(default.embedding), np.float32(floats.embedding))
        assert np.array_equal(np.frombuffer(base64.b64decode(text.embedding), "<f4"), np.float32(floats.embedding))


@pytest.mark.parametrize("dimensions", [1, 64, DIMENSIONS])
def test_fewer_dimensions_are_the_first_ones_scaled_to_length_one(server, dimensions):
    whole, cut = embed(server, "hello world"), embed(server, "hello world", dimensions=dimensions)
    first = whole[:, :dimensions]
    assert np.allclose(cut, first / np.linalg.norm(first), atol=1e-6)


def test_optional_parameters_may_be_null_and_unknown_ones_are_ignored(server):
    plain = embed(server, "hello")
    assert np.array_equal(plain, embed(server, "hello", encoding_format=None, dimensions=None, user=None, a_key_of_another_client=1))
    assert np.array_equal(plain, embed(server, "hello", user="till-3"))


def test_without_a_model_the_one_that_embeds_is_taken(server):
    answer = server.post(EMBEDDINGS, {"input": "hello"})
    assert answer.json()["model"] == "minilm"


@pytest.mark.parametrize(("input", "param"), [
    (None, "input"), (5, "input"), (True, "input"), ({}, "input"), ([], "input"), ("", "input"), (["a", ""], "input[1]"), ([[]], "input[0]"),
    (["a", 1], "input[1]"), ([1, "a"], "input[1]"), (["a", None], "input[1]"), (["a", ["b"]], "input[1]"), ([[1], 2], "input[1]"),
    ([[1], ["a"]], "input[1][0]"), ([1.5], "input[0]"), ([[[1]]], "input[0][0]"),
    ([101, -1], "input[1]"), ([101, 30522], "input[1]"), ([2**31], "input[0]"), ([2**64], "input[0]"), ([1e300], "input[0]"),
    ([[101], [7, 2**63]], "input[1][1]"),
    (["a"] * 2049, "input"), ([[101]] * 3000, "input"), ([101] * 300_001, "input"),
])
def test_input_that_is_none_is_refused_by_name(server, input, param):
    refused(server, {"input": input}, param)


@pytest.mark.parametrize(("body", "param"), [
    ({}, "input"),
    ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ({"input": "a", "encoding_format": 5}, "encoding_format"),
    ({"input": "a", "dimensions": 0}, "dimensions"),
    ({"input": "a", "dimensions": -1}, "dimensions"),
    ({"input": "a", "dimensions": DIMENSIONS + 1}, "dimensions"),
    ({"input": "a", "dimensions": "8"}, "dimensions"),
    ({"input": "a", "user": 5}, "user"),
    ({"input": "a", "model": 5}, "model"),
])
def test_parameters_that_are_wrong_are_named(server, body, param):
    refused(server, body, param)


def test_a_text_over_the_context_is_refused_with_its_place(server, tokenizer):
    longest = "word " * (CONTEXT - 2)
    assert len(tokenizer.encode(longest).ids) == CONTEXT
    embed(server, longest)
    for input, param in ((longest + "word", "input"), (["a", longest + "word", "b"], "input[1]"), ([[101] * (CONTEXT + 1)], "input[0]")):
        error = refused(server, {"input": input}, param, "context_length_exceeded")
        assert "513" in error["message"] and "512" in error["message"]


def test_a_giant_text_and_too_many_tokens_in_all_are_refused(server):
    for giant in ("where is it? " * 200_000, "x" * 4_000_000, "한" * 600_000):
        began = time.monotonic()
        refused(server, {"input": giant}, "input", "context_length_exceeded")
        assert time.monotonic() - began < 5, "reading all of it would take longer"
    refused(server, {"input": ["word " * 400] * 800}, "input")
    assert embed(server, "the server goes on").shape == (1, DIMENSIONS)


def test_as_many_inputs_as_openai_takes_come_back_in_order(server):
    texts = [f"number {i}" for i in range(2048)]
    many = embed(server, texts)
    some = [0, 1, 63, 64, 65, 1000, 2047]
    assert cosines(many[some], embed(server, [texts[i] for i in some])).min() > 0.9999


def test_eight_clients_at_once_get_the_vectors_that_each_gets_alone(server):
    alone = [embed(server, text) for text in TEXTS]
    with ThreadPoolExecutor(8) as clients:
        together = list(clients.map(lambda text: embed(server, text), TEXTS * 4))
    assert cosines(np.concatenate(together), np.concatenate(alone * 4)).min() > 0.9999


def test_a_short_text_does_not_wait_for_hundreds_of_others(server):
    with ThreadPoolExecutor(1) as other:
        before = server.metric("edgellm_engine_steps_total", 'model="minilm"')
        many = other.submit(embed, server, ["How much is the coffee in aisle 12? " * 5] * 512)
        wait_until(lambda: server.metric("edgellm_engine_steps_total", 'model="minilm"') > before, "the large request is under way")
        embed(server, "hello")
        assert not many.done()
        assert many.result().shape == (512, DIMENSIONS)


def test_a_client_that_leaves_is_not_computed(server):
    name = "edgellm_requests_cancelled_total"
    before = server.metric(name, 'model="minilm"')
    steps = server.metric("edgellm_engine_steps_total", 'model="minilm"')
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    body = json.dumps({"model": "minilm", "input": ["How much is the coffee in aisle 12? " * 10] * 2048})
    connection.request("POST", EMBEDDINGS, body, {"content-type": "application/json"})
    wait_until(lambda: server.metric("edgellm_engine_steps_total", 'model="minilm"') > steps, "the request is under way")
    connection.close()
    wait_until(lambda: server.metric(name, 'model="minilm"') == before + 1, "the request is counted as cancelled")
    wait_until(lambda: server.metric("edgellm_requests_running", 'model="minilm"') == 0, "nothing runs")


def test_each_kind_of_model_refuses_the_others_work(server):
    error = refused(server, {"model": "kiosk", "input": "a"}, "model")
    assert "`minilm`" in error["message"]
    answer = server.post("/v1/chat/completions", {"model": "minilm", "messages": ask("Hello")})
    assert answer.status == 400 and answer.error()["param"] == "model"
    assert "/v1/embeddings" in answer.error()["message"]
    answer = server.post("/tokenize", {"model": "minilm", "messages": ask("Hello")})
    assert answer.status == 400 and answer.error()["param"] == "messages"
    assert server.chat(max_tokens=1).status == 200


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.embeddings.create(model="text-embedding-nonesuch", input="a")
    assert error.value.code == "model_not_found"


def test_a_server_without_an_embedding_model_says_so():
    with gateway("--model", MODEL) as chats_only:
        error = refused(chats_only, {"model": "kiosk", "input": "a"}, "model")
        assert "no embedding model" in error["message"]


def test_the_list_of_models_says_what_each_is_for(client):
    described = {model.id: model.model_extra["edgellm"] for model in client.models.list().data}
    assert described["kiosk"]["kind"] == "chat" and "dimensions" not in described["kiosk"]
    assert (described["minilm"]["kind"], described["minilm"]["dimensions"], described["minilm"]["context"]) == ("embedding", DIMENSIONS, CONTEXT)


def test_metrics_and_the_access_log_know_the_request(server):
    def counted():
        requests = server.metric("edgellm_requests_total", 'model="minilm",status="200"')
        names = ["prompt_tokens_total", "request_duration_seconds_count", "request_queue_duration_seconds_count", "engine_batch_tokens_count"]
        return [requests, *(server.metric(f"edgellm_{name}", 'model="minilm"') for name in names)]

    before = counted()
    answer = server.post(EMBEDDINGS, {"model": "minilm", "input": "hello world"}, {"x-request-id": "till-3.embed_1"})
    assert answer.headers["x-request-id"] == "till-3.embed_1"
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [1, 4, 1, 1, 1]
    series = [line for line in server.metrics().splitlines() if 'model="minilm"' in line]
    assert any(f'endpoint="{EMBEDDINGS}"' in line for line in series)
    assert not [line for line in series if "kv_cache" in line or "first_token" in line], "it has no such thing"
    line = wait_until(lambda: [line for line in server.log_text().splitlines() if "till-3.embed_1" in line], "the access line is written")
    assert '"prompt_tokens":4' in line[-1] and "hello" not in line[-1]


def test_a_shutdown_lets_an_embedding_end(both_models):
    with gateway("--config", both_models) as running, ThreadPoolExecutor(1) as other:
        many = other.submit(embed, running, ["How much is the coffee in aisle 12? " * 5] * 512)
        wait_until(lambda: running.metric("edgellm_engine_steps_total", 'model="minilm"') > 0, "the request is under way")
        assert running.stop() == 0
        assert many.result().shape == (512, DIMENSIONS)


def test_a_shutdown_without_grace_tells_the_client(both_models):
    with gateway("--config", both_models, env={"EDGELLM__SERVER__SHUTDOWN_GRACE_SECONDS": "0"}) as running, ThreadPoolExecutor(1) as other:
        many = other.submit(running.post, EMBEDDINGS, {"model": "minilm", "input": ["How much is the coffee in aisle 12? " * 10] * 2048})
        wait_until(lambda: running.metric("edgellm_engine_steps_total", 'model="minilm"') > 0, "the request is under way")
        assert running.stop() == 0
        answer = many.result()
        assert (answer.status, answer.error()["code"]) == (503, "draining")
