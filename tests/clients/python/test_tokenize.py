"""`/tokenize` and `/detokenize` as vLLM's users know them."""

import pytest
from gateway import ask

KIOSK = {"model": "kiosk"}


def tokenize(server, **body) -> dict:
    answer = server.post("/tokenize", {**KIOSK, **body})
    assert answer.status == 200, answer.text
    return answer.json()


def refused(server, path: str, body: dict, param: str) -> dict:
    answer = server.post(path, body)
    assert answer.status == 400, answer.text
    error = answer.error()
    assert error["param"] == param, error
    return error


@pytest.mark.parametrize("text", ["How much is the Brindle Oat Bar?", "Käse für Jürgen 🧀 コーヒー", "tea . done , now", "the long 'sword' it 's", " . ", "a\0b \ufeff", " two  spaces\n", "", "x" * 3000])
def test_a_text_comes_back_from_its_tokens(server, text):
    made = tokenize(server, prompt=text)
    assert made["count"] == len(made["tokens"]) and made["token_strs"] is None
    assert made["max_model_len"] >= 2048
    back = server.post("/detokenize", {**KIOSK, "tokens": made["tokens"]})
    assert back.json() == {"prompt": text}


def test_tokens_are_shown_as_the_vocabulary_writes_them(server):
    made = tokenize(server, prompt="the coffee", return_token_strs=True)
    assert len(made["token_strs"]) == made["count"]
    assert "".join(made["token_strs"]).replace("Ġ", " ") == "the coffee"


def test_messages_have_the_tokens_of_a_chat_request(server):
    messages = ask("Where is the coffee?")
    usage = server.chat("Where is the coffee?", max_tokens=1).json()["usage"]
    assert tokenize(server, messages=messages)["count"] == usage["prompt_tokens"]


def test_the_opening_of_the_answer_can_be_left_out(server):
    whole = tokenize(server, messages=ask("Hi"))["tokens"]
    closed = tokenize(server, messages=ask("Hi"), add_generation_prompt=False)["tokens"]
    assert len(closed) < len(whole) and whole[:len(closed)] == closed


def test_a_prompt_may_hold_control_tokens_and_a_message_may_not(server):
    [end] = tokenize(server, prompt="<|im_end|>")["tokens"]
    typed = tokenize(server, messages=[{"role": "user", "content": "<|im_end|>"}])["tokens"]
    plain = tokenize(server, messages=[{"role": "user", "content": "x"}])["tokens"]
    assert typed.count(end) == plain.count(end) == 1


def test_variables_of_the_template_change_nothing_where_it_reads_none(server):
    plain = tokenize(server, messages=ask("Hi"))["tokens"]
    assert tokenize(server, messages=ask("Hi"), chat_template_kwargs={"enable_thinking": False, "mode": "x"})["tokens"] == plain


@pytest.mark.parametrize(("body", "param"), [
    ({"messages": ask("a"), "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
    ({}, "prompt"),
    ({"prompt": "a", "messages": ask("a")}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": ["a"]}, "prompt"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"prompt": "a", "add_special_tokens": "yes"}, "add_special_tokens"),
    ({"messages": ask("a"), "continue_final_message": True}, "continue_final_message"),
    ({"messages": [*ask("a"), {"role": "assistant", "content": "b"}], "continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
    ({"messages": ask("a"), "chat_template": "{{ messages }}"}, "chat_template"),
])
def test_what_cannot_be_tokenized_is_refused_by_name(server, body, param):
    refused(server, "/tokenize", body, param)


@pytest.mark.parametrize(("tokens", "param"), [
    ([-1], "tokens[0]"), ([1, 1 << 20], "tokens[1]"), ([1 << 31], "tokens[0]"), ([2**63 - 1], "tokens[0]"), ([1.5], "tokens[0]"),
    (["a"], "tokens[0]"), ("a", "tokens"), ([[1]], "tokens[0]"), (None, "tokens"),
])
def test_what_are_no_tokens_is_refused_by_name(server, tokens, param):
    refused(server, "/detokenize", {**KIOSK, "tokens": tokens}, param)
    assert server.post("/detokenize", {**KIOSK, "tokens": []}).json() == {"prompt": ""}


def test_an_unknown_model_is_not_found(server):
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
        answer = server.post(path, {"model": "gpt-nonesuch", **body})
        assert answer.status == 404 and answer.error()["code"] == "model_not_found"


def test_a_text_of_megabytes_is_counted(server):
    text = "How much is the coffee? " * 100_000
    assert tokenize(server, prompt=text)["count"] > 500_000


def test_messages_that_no_chat_could_hold_are_refused(server):
    for messages in ([{"role": "user", "content": "<|im_end|>" * 300_000}], [{"role": "user", "content": "a"}] * 20_000):
        answer = server.post("/tokenize", {**KIOSK, "messages": messages})
        assert answer.status == 400 and answer.error()["code"] == "context_length_exceeded"
