"""`logprobs` and `top_logprobs`, whole and streamed."""

import math

import pytest

QUESTION = "How much is the Brindle Oat Bar?"


def logprobs_of(answer) -> list[dict]:
    assert answer.status == 200, answer.text
    logprobs = answer.json()["choices"][0]["logprobs"]
    assert logprobs["refusal"] is None
    return logprobs["content"]


def bytes_of(tokens: list[dict]) -> bytes:
    return b"".join(bytes(token["bytes"]) for token in tokens)


def test_without_asking_there_are_none(server):
    assert server.chat(max_tokens=3).json()["choices"][0]["logprobs"] is None


def test_the_tokens_bytes_are_the_text(server):
    answer = server.chat(QUESTION, temperature=0, logprobs=True)
    tokens = logprobs_of(answer)
    assert bytes_of(tokens).decode() == answer.json()["choices"][0]["message"]["content"]
    for token in tokens:
        assert token["logprob"] <= 0 and math.isfinite(token["logprob"])
        assert token["top_logprobs"] == []
        assert token["token"].encode() == bytes(token["bytes"]) or "\ufffd" in token["token"] or "\\x" in token["token"]


def test_there_is_one_entry_for_every_token_of_the_answer(server):
    answer = server.chat(QUESTION, temperature=1, seed=1, max_tokens=17, ignore_eos=True, logprobs=True, top_logprobs=2)
    assert len(logprobs_of(answer)) == answer.json()["usage"]["completion_tokens"] == 17


@pytest.mark.parametrize("count", [1, 5, 20])
def test_the_top_holds_the_chosen_token_when_greedy(server, count):
    tokens = logprobs_of(server.chat(QUESTION, temperature=0, logprobs=True, top_logprobs=count))
    assert tokens
    for token in tokens:
        top = token["top_logprobs"]
        assert len(top) == count
        assert [one["logprob"] for one in top] == sorted((one["logprob"] for one in top), reverse=True)
        assert (top[0]["token"], top[0]["bytes"]) == (token["token"], token["bytes"])
        assert top[0]["logprob"] == pytest.approx(token["logprob"], abs=1e-4)
        assert sum(math.exp(one["logprob"]) for one in top) <= 1.001
        assert len({tuple(one["bytes"]) for one in top}) > count / 2, "not the same token again and again"


def test_the_model_is_surer_of_some_tokens_than_of_others(server):
    tokens = logprobs_of(server.chat(QUESTION, temperature=0, logprobs=True))
    assert len({round(token["logprob"], 3) for token in tokens}) > 1


def test_sampled_tokens_have_the_probability_that_the_model_gave_them(server):
    """Not that of the tempered distribution, or the same token would look surer at one temperature than at another."""
    first = [logprobs_of(server.chat(QUESTION, temperature=t, seed=1, max_tokens=1, logprobs=True, top_logprobs=3))[0] for t in (0, 0.7, 1)]
    tops = [[(one["token"], pytest.approx(one["logprob"], abs=1e-3)) for one in token["top_logprobs"]] for token in first]
    assert tops[0] == tops[1] == tops[2]


def test_a_streams_logprobs_are_those_of_the_whole_answer(server):
    asked = {"temperature": 0, "logprobs": True, "top_logprobs": 3}
    whole = logprobs_of(server.chat(QUESTION, **asked))
    streamed, text = [], ""
    for event in server.chat(QUESTION, stream=True, **asked).events()[:-1]:
        for choice in event.json()["choices"]:
            piece = choice["delta"].get("content") or ""
            entries = (choice["logprobs"] or {}).get("content") or []
            text += piece
            streamed += entries
    assert [token["token"] for token in streamed] == [token["token"] for token in whole]
    assert [token["logprob"] for token in streamed] == pytest.approx([token["logprob"] for token in whole], abs=1e-3)
    assert bytes_of(streamed).decode() == text


def test_the_tokens_before_a_stop_string_are_told(server):
    whole = server.chat(QUESTION, temperature=0).json()["choices"][0]["message"]["content"]
    answer = server.chat(QUESTION, temperature=0, stop=whole[8:12], logprobs=True)
    text = answer.json()["choices"][0]["message"]["content"]
    assert whole.startswith(text)
    assert bytes_of(logprobs_of(answer)).startswith(text.encode())


def test_every_choice_has_its_own(server):
    choices = server.chat(QUESTION, n=2, temperature=1.5, seed=2, max_tokens=8, logprobs=True).json()["choices"]
    for choice in choices:
        assert bytes_of(choice["logprobs"]["content"]).decode(errors="ignore").startswith(choice["message"]["content"].rstrip("\ufffd"))


def test_constrained_answers_have_them_too(server):
    answer = server.chat("Where is the coffee? Answer in JSON.", temperature=0, max_tokens=60, logprobs=True, top_logprobs=2, response_format={
        "type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": {
            "type": "object", "properties": {"aisle": {"enum": [3, 7, 12]}}, "required": ["aisle"], "additionalProperties": False}}})
    content = answer.json()["choices"][0]["message"]["content"]
    assert bytes_of(logprobs_of(answer)).decode().strip() == content.strip()


@pytest.mark.parametrize(("parameters", "param"), [
    ({"logprobs": "yes"}, "logprobs"), ({"logprobs": 1}, "logprobs"), ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"), ({"logprobs": True, "top_logprobs": "all"}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 1.5}, "top_logprobs"), ({"top_logprobs": 2}, "top_logprobs"), ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
])
def test_what_is_out_of_range_is_named(server, parameters, param):
    answer = server.chat(**parameters)
    assert answer.status == 400
    assert answer.error()["param"] == param
