"""`n`: several answers to one question."""

import json

import pytest
from gateway import ask

QUESTION = "zzzz qqq hmm"  # the model has no answer ready, so that samples differ
WILD = {"temperature": 1.8, "max_tokens": 12, "ignore_eos": True}


def text_by_index(chunks) -> dict[int, str]:
    texts: dict[int, str] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        texts[choice["index"]] = texts.get(choice["index"], "") + (choice["delta"].get("content") or "")
    return texts


def chunks_of(answer) -> list[dict]:
    assert answer.status == 200, answer.text
    return [event.json() for event in answer.events()[:-1]]


def test_n_choices_have_indices_and_differ(server):
    choices = server.chat(QUESTION, n=4, **WILD).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert len({choice["message"]["content"] for choice in choices}) > 1
    assert {choice["finish_reason"] for choice in choices} == {"length"}


def test_the_prompt_of_n_choices_is_counted_once(server):
    one, four = (server.chat(QUESTION, n=n, **WILD).json()["usage"] for n in (1, 4))
    assert four["prompt_tokens"] == one["prompt_tokens"]
    assert (one["completion_tokens"], four["completion_tokens"]) == (12, 48)
    assert four["total_tokens"] == four["prompt_tokens"] + 48


def test_n_greedy_choices_are_all_the_same(server):
    choices = server.chat(QUESTION, n=3, temperature=0).json()["choices"]
    assert len({choice["message"]["content"] for choice in choices}) == 1


def test_a_seed_repeats_all_n_choices(server):
    first, again = ([choice["message"]["content"] for choice in server.chat(QUESTION, n=3, seed=11, **WILD).json()["choices"]] for _ in range(2))
    assert first == again
    assert len(set(first)) > 1, "a seed makes the choices repeatable, not alike"


def test_n_choices_are_streamed_by_index(server):
    chunks = chunks_of(server.chat(QUESTION, n=3, seed=11, stream=True, stream_options={"include_usage": True}, **WILD))
    plain = server.chat(QUESTION, n=3, seed=11, **WILD).json()["choices"]
    assert text_by_index(chunks) == {choice["index"]: choice["message"]["content"] for choice in plain}
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 36
    roles = [choice["index"] for chunk in chunks for choice in chunk["choices"] if choice["delta"].get("role")]
    ends = [choice["index"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert sorted(roles) == sorted(ends) == [0, 1, 2]


def test_a_stop_string_ends_only_the_choice_that_wrote_it(server):
    choices = server.chat(QUESTION, n=6, stop=["e"], seed=3, **{**WILD, "max_tokens": 40}).json()["choices"]
    assert len(choices) == 6
    for choice in choices:
        assert "e" not in choice["message"]["content"]
    assert len({len(choice["message"]["content"]) for choice in choices}) > 1


@pytest.mark.parametrize("n", [0, -1, 129, 1.5, "2", True, [1]])
def test_an_n_that_is_out_of_range_is_named(server, n):
    answer = server.chat(n=n)
    assert answer.status == 400
    assert answer.error()["param"] == "n"


def test_n_choices_each_keep_to_a_schema(server):
    schema = {"type": "object", "properties": {"aisle": {"type": "integer", "minimum": 1, "maximum": 20}}, "required": ["aisle"], "additionalProperties": False}
    answer = server.post("/v1/chat/completions", {
        "model": "kiosk", "messages": ask("Where is the coffee? Answer in JSON."), "n": 3, "temperature": 1.5, "max_tokens": 100,
        "response_format": {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": schema}}})
    for choice in answer.json()["choices"]:
        assert choice["finish_reason"] == "stop", choice
        assert 1 <= json.loads(choice["message"]["content"])["aisle"] <= 20
