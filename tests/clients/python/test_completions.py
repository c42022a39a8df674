"""`/v1/completions`: text in, text out, without a conversation."""

import json
import math

import pytest

PATH = "/v1/completions"
PROMPT = "The opening hours are 8:00 to"


def complete(server, prompt=PROMPT, **parameters):
    return server.post(PATH, {"model": "kiosk", "prompt": prompt, **{"temperature": 0, "max_tokens": 8, "ignore_eos": True, **parameters}})


def choices(answer) -> list[dict]:
    assert answer.status == 200, answer.text
    return answer.json()["choices"]


def texts(answer) -> list[str]:
    return [choice["text"] for choice in choices(answer)]


def tokens_of(server, text: str) -> list[int]:
    answer = server.post("/tokenize", {"model": "kiosk", "prompt": text})
    assert answer.status == 200, answer.text
    return answer.json()["tokens"]


def test_a_prompt_is_continued(server):
    answer = complete(server)
    [choice] = choices(answer)
    body = answer.json()
    assert body["id"].startswith("cmpl-") and body["object"] == "text_completion"
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "length", None)
    assert choice["text"] and not choice["text"].startswith(PROMPT)
    assert body["usage"]["completion_tokens"] == 8
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 8


def test_the_default_is_sixteen_tokens(server):
    assert complete(server, max_tokens=None).json()["usage"]["completion_tokens"] == 16


def test_a_list_of_prompts_gives_a_choice_each(server):
    prompts = [PROMPT, "The wifi password is", "Aisle"]
    answer = complete(server, prompts)
    assert [choice["index"] for choice in choices(answer)] == [0, 1, 2]
    alone = [complete(server, prompt) for prompt in prompts]
    assert texts(answer) == [text for one in alone for text in texts(one)]
    assert answer.json()["usage"]["prompt_tokens"] == sum(one.json()["usage"]["prompt_tokens"] for one in alone)
    assert answer.json()["usage"]["completion_tokens"] == 24


def test_n_choices_of_each_prompt_stand_together(server):
    answer = complete(server, [PROMPT, "Aisle"], n=2)
    assert [choice["index"] for choice in choices(answer)] == [0, 1, 2, 3]
    first, second, third, fourth = texts(answer)
    assert first == second and third == fourth
    assert len(set(texts(complete(server, n=4, temperature=1.9, seed=1)))) > 1


def test_tokens_are_a_prompt_too(server):
    tokens = tokens_of(server, PROMPT)
    assert texts(complete(server, tokens)) == texts(complete(server))
    other = tokens_of(server, "Aisle")
    assert texts(complete(server, [tokens, other])) == texts(complete(server, [PROMPT, "Aisle"]))


def test_an_echo_comes_before_the_text(server):
    assert texts(complete(server, echo=True)) == [PROMPT + texts(complete(server))[0]]
    tokens = tokens_of(server, PROMPT)
    assert texts(complete(server, tokens, echo=True)) == [PROMPT + texts(complete(server))[0]]


def test_only_the_echo_where_no_token_is_wanted(server):
    answer = complete(server, echo=True, max_tokens=0)
    assert texts(answer) == [PROMPT]
    assert answer.json()["usage"]["completion_tokens"] == 0


def logprobs_of(answer) -> dict:
    [choice] = choices(answer)
    logprobs = choice["logprobs"]
    tokens = logprobs["tokens"]
    assert len(tokens) == len(logprobs["token_logprobs"]) == len(logprobs["top_logprobs"]) == len(logprobs["text_offset"])
    assert choice["text"] == "".join(tokens) or any(token.startswith("bytes:") for token in tokens)
    for token, top, at in zip(tokens, logprobs["top_logprobs"], logprobs["text_offset"], strict=True):
        assert top is None or token in top
        assert token.startswith("bytes:") or choice["text"][at - logprobs["text_offset"][0]:].startswith(token)
    return logprobs


@pytest.mark.parametrize("text", ["5 tea 👩‍👩‍👧 ok, done", "tea 日本語 price", "שלום e\u0301 x", "😀", "a . b"])
@pytest.mark.parametrize("parameters", [{"max_tokens": 0}, {"max_tokens": 4}, {"max_tokens": 4, "n": 2}])
def test_offsets_are_code_points_of_the_text(server, text, parameters):
    for choice in choices(complete(server, text, echo=True, logprobs=2, **parameters)):
        logprobs = choice["logprobs"]
        assert choice["text"].startswith(text)
        for token, at in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
            assert at <= len(choice["text"])
            assert token.startswith("bytes:") or choice["text"][at:at + len(token)] == token


def test_rivals_that_are_parts_of_characters_are_all_told(server):
    logprobs = logprobs_of(complete(server, "日本語の絵文字 👩‍👩‍👧 👩‍👩‍👧 👩‍👩", logprobs=5))
    assert all(5 <= len(top) <= 6 for top in logprobs["top_logprobs"])


def test_streamed_logprobs_are_those_of_the_whole(server):
    asked = {"logprobs": 2, "echo": True}
    whole = choices(complete(server, "日本 5 😀", **asked))[0]
    chunks = [event.json()["choices"][0] for event in complete(server, "日本 5 😀", stream=True, **asked).events()[:-1]]
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
    told = {key: [one for chunk in chunks if chunk["logprobs"] for one in chunk["logprobs"][key]] for key in whole["logprobs"]}
    assert told["tokens"] == whole["logprobs"]["tokens"] and told["text_offset"] == whole["logprobs"]["text_offset"]
    assert len(told["top_logprobs"]) == len(told["token_logprobs"]) == len(told["tokens"])


@pytest.mark.parametrize("prompt", ["", None])
def test_an_empty_prompt_begins_a_new_text(server, prompt):
    answer = complete(server, prompt)
    assert len(texts(answer)) == 1 and answer.json()["usage"]["prompt_tokens"] == 1


def test_every_chunk_but_the_last_has_no_usage_yet(server):
    asked = {"stream": True, "echo": True, "n": 2}
    chunks = [event.json() for event in complete(server, stream_options={"include_usage": True}, **asked).events()[:-1]]
    assert all(chunk["usage"] is None for chunk in chunks[:-1]) and chunks[-1]["usage"]
    assert not any("usage" in event.json() for event in complete(server, **asked).events()[:-1])


def test_a_schema_may_stand_where_vllm_has_it(server):
    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"], "additionalProperties": False}
    for asked in ({"guided_json": schema}, {"structured_outputs": {"json": schema}}, {"json_schema": schema}):
        assert json.loads(texts(complete(server, max_tokens=60, ignore_eos=False, **asked))[0]) == {"n": 7}


def test_logprobs_are_told_as_completions_tell_them(server):
    logprobs = logprobs_of(complete(server, logprobs=3))
    assert len(logprobs["tokens"]) == 8
    offset = logprobs["text_offset"][0]
    for token, logprob, top, at in zip(*(logprobs[key] for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")), strict=True):
        assert logprob <= 0 and top[token] == pytest.approx(logprob, abs=1e-4)
        assert 3 <= len(top) <= 4 and sum(math.exp(one) for one in top.values()) <= 1.001
        assert at == offset
        offset += len(token)


def test_the_echoed_tokens_have_logprobs_too_but_the_first(server):
    logprobs = logprobs_of(complete(server, echo=True, logprobs=1))
    assert logprobs["token_logprobs"][0] is None
    assert all(logprob <= 0 for logprob in logprobs["token_logprobs"][1:])
    assert logprobs["text_offset"][0] == 0
    assert "".join(logprobs["tokens"]).startswith(PROMPT)


def test_logprobs_of_zero_are_those_of_the_chosen_tokens(server):
    assert len(logprobs_of(complete(server, logprobs=0))["token_logprobs"]) == 8


def test_a_stream_says_what_the_whole_says(server):
    asked = {"n": 2, "seed": 3, "temperature": 1.2, "top_p": 0.9}
    whole = texts(complete(server, **asked))
    answer = complete(server, stream=True, stream_options={"include_usage": True}, **asked)
    assert answer.status == 200, answer.text
    chunks = [event.json() for event in answer.events()[:-1]]
    streamed = ["", ""]
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        streamed[choice["index"]] += choice["text"]
    assert streamed == whole
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 16


def test_a_streamed_echo_comes_first(server):
    events = complete(server, stream=True, echo=True).events()[:-1]
    assert "".join(choice["text"] for event in events for choice in event.json()["choices"]) == texts(complete(server, echo=True))[0]


def test_stop_seed_and_bias_mean_what_they_mean_in_chat(server):
    whole = texts(complete(server, max_tokens=40))[0]
    stop = whole[10:13]
    cut = complete(server, max_tokens=40, stop=stop)
    assert texts(cut) == [whole[:whole.index(stop)]] and choices(cut)[0]["finish_reason"] == "stop"
    [token] = tokens_of(server, "e")
    assert texts(complete(server, logit_bias={str(token): 100})) == ["e" * 8]


def test_the_sdk_completes(client):
    completion = client.completions.create(model="kiosk", prompt=PROMPT, max_tokens=8, temperature=0)
    assert completion.choices[0].text
    pieces = client.completions.create(model="kiosk", prompt=PROMPT, max_tokens=8, temperature=0, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == completion.choices[0].text


@pytest.mark.parametrize(("parameters", "param"), [
    ({"suffix": " tonight."}, "suffix"), ({"prompt": []}, "prompt"), ({"prompt": 5}, "prompt"), ({"prompt": [5.5]}, "prompt"),
    ({"prompt": [-1]}, "prompt"), ({"prompt": [99_999_999]}, "prompt"), ({"prompt": ["a", 5]}, "prompt"), ({"prompt": [[]]}, "prompt"),
    ({"logprobs": 6}, "logprobs"), ({"logprobs": -1}, "logprobs"), ({"logprobs": True}, "logprobs"), ({"echo": "yes"}, "echo"), ({"best_of": 0}, "best_of"),
    ({"best_of": 1, "n": 2}, "best_of"), ({"n": 0}, "n"), ({"n": 129}, "n"), ({"max_tokens": -1}, "max_tokens"), ({"temperature": 3}, "temperature"),
    ({"stop": ["1"] * 65}, "stop"), ({"stop": "x" * 1025}, "stop"), ({"response_format": {"type": "json_object"}}, "response_format"), ({"guided_regex": "a"}, "guided_regex"), ({"stream": "yes"}, "stream"), ({"logit_bias": 5}, "logit_bias"), ({"user": 5}, "user"), ({"model": "gpt-nonesuch"}, "model"),
])
def test_what_is_wrong_is_named(server, parameters, param):
    answer = complete(server, **{"prompt": PROMPT, **parameters})
    assert answer.status == (404 if param == "model" else 400), answer.text
    assert (answer.error()["param"] or "").startswith(param), answer.text


def test_a_prompt_over_the_context_is_refused(server):
    answer = complete(server, "where is it? " * 20_000)
    assert answer.status == 400 and answer.error()["code"] == "context_length_exceeded"
