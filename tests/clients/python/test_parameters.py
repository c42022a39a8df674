"""The rest of the request: roles, parts, and parameters that are taken, echoed, refused or ignored."""

import json

import pytest
from gateway import STORE, ask

CHAT = "/v1/chat/completions"
QUESTION = "How much is the Brindle Oat Bar?"


def content(answer) -> str:
    assert answer.status == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def chat(server, messages: list, **parameters):
    return server.post(CHAT, {"model": "kiosk", "messages": messages, "temperature": 0, **parameters})


def user(*parts) -> list[dict]:
    return [{"role": "system", "content": STORE}, {"role": "user", "content": list(parts)}]


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def test_a_developers_message_is_a_systems_message(server):
    developer = [{"role": "developer", "content": STORE}, {"role": "user", "content": QUESTION}]
    answer = chat(server, developer)
    assert content(answer) == content(chat(server, ask(QUESTION)))
    assert "2.49" in content(answer)


def test_several_parts_are_one_text(server):
    assert content(chat(server, user(text("How much is "), text("the Brindle Oat Bar?")))) == content(chat(server, ask(QUESTION)))


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_every_role_may_speak_in_parts(server, role):
    messages = [*ask(QUESTION), {"role": role, "content": [text("And now?")]}, {"role": "user", "content": "Tell me."}]
    assert chat(server, messages, max_tokens=5).status == 200


def test_an_assistants_refusal_is_taken(server):
    messages = [*ask("Where is the gold?"), {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot say."}]}, {"role": "user", "content": QUESTION}]
    answer = chat(server, messages, max_tokens=5)
    assert answer.status == 200 or answer.error()["param"].startswith("messages[2]"), answer.text


def test_a_users_name_is_taken(server):
    assert chat(server, [{"role": "user", "content": QUESTION, "name": "till_3"}], max_tokens=5).status == 200


@pytest.mark.parametrize("part", [
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
    {"type": "file", "file": {"file_data": "JVBERi0=", "filename": "prices.pdf"}},
])
def test_a_part_that_the_model_cannot_take_is_refused_by_name(server, part):
    answer = chat(server, user(text("What is this?"), part))
    assert answer.status == 400
    error = answer.error()
    assert part["type"] in error["message"]
    assert error["param"].startswith("messages[1].content[1]")


@pytest.mark.parametrize(("message", "param"), [
    ({"role": "user", "content": [5]}, "messages[1].content"),
    ({"role": "user", "content": [{"text": "x"}]}, "messages[1].content"),
    ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content"),
    ({"role": "user", "content": [{"type": "text", "text": 5}]}, "messages[1].content"),
    ({"role": "user", "content": [{"type": "smell", "smell": "roses"}]}, "messages[1].content"),
    ({"role": "user", "content": None}, "messages[1].content"),
    ({"role": "user", "content": "x", "name": 5}, "messages[1].name"),
    ({"role": "tool", "content": "x"}, "messages[1].tool_call_id"),
    ({"role": "tool", "content": "x", "tool_call_id": 5}, "messages[1].tool_call_id"),
    ({"role": "function", "content": "x", "name": "f"}, "messages[1].role"),
    ({"role": "assistant", "content": None}, "messages[1].content"),
    ({"role": "assistant", "content": "x", "tool_calls": "none"}, "messages[1].tool_calls"),
    ({"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]}, "messages[1].tool_calls[0]"),
    ({"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}]}, "messages[1].tool_calls[0]"),
])
def test_what_is_wrong_with_a_message_is_named(server, message, param):
    answer = chat(server, [{"role": "user", "content": "Hello"}, message])
    assert answer.status == 400, answer.text
    assert (answer.error()["param"] or "").startswith(param), answer.text


# OpenAI's parameters that ask for nothing that shows here.
@pytest.mark.parametrize("parameters", [
    {"user": "till-3"}, {"metadata": {"store": "harbour", "till": "3"}}, {"prompt_cache_key": "harbour"}, {"safety_identifier": "till-3"},
    {"store": False}, {"service_tier": "auto"}, {"modalities": ["text"]}, {"response_format": {"type": "text"}}, {"n": 1},
    {"logprobs": False}, {"stream": False}, {"logit_bias": {}}, {"stop": None}, {"tools": None}, {"prediction": None}, {"seed": None},
    {"presence_penalty": 0, "frequency_penalty": 0}, {"max_tokens": None, "max_completion_tokens": None}, {"metadata": {}},
    {"a_key_of_another_client": {"deep": [1, 2, 3]}}, {"guided_json": None, "grammar": "", "cache_prompt": True, "": 1}, {"chat_template_kwargs": {}}, {"chat_template_kwargs": {"enable_thinking": False, "nobody_knows": [1]}},
])
def test_what_asks_for_nothing_changes_nothing(server, parameters):
    assert content(chat(server, ask(QUESTION), **parameters)) == content(chat(server, ask(QUESTION)))


def test_what_is_to_be_stored_is_stored_or_refused(server):
    answer = chat(server, ask(QUESTION), store=True)
    if answer.status == 200:
        assert server.http("GET", f"{CHAT}/{answer.json()['id']}").status == 200
    else:
        assert answer.status == 400 and answer.error()["param"] == "store"


@pytest.mark.parametrize(("param", "value"), [
    ("audio", {"voice": "alloy", "format": "wav"}), ("modalities", ["text", "audio"]), ("modalities", ["audio"]),
    ("web_search_options", {}), ("functions", [{"name": "f"}]), ("function_call", "auto"), ("store", "yes"),
])
def test_what_cannot_be_honoured_is_refused_by_name(server, param, value):
    answer = chat(server, ask(QUESTION), **{param: value})
    assert answer.status == 400, answer.text
    assert answer.error()["param"] == param


@pytest.mark.parametrize(("param", "value"), [
    ("messages", 5), ("messages", []), ("model", 5), ("model", ["kiosk"]), ("frequency_penalty", 2.01), ("frequency_penalty", -2.01), ("frequency_penalty", "much"),
    ("presence_penalty", 3), ("presence_penalty", [1]), ("temperature", 2.01), ("temperature", []), ("top_p", 1.01), ("top_p", {}),
    ("max_tokens", 0), ("max_tokens", "5"), ("max_completion_tokens", 1.5), ("max_completion_tokens", -1), ("n", 0), ("seed", 1.5), ("seed", "7"),
    ("stop", [""]), ("stop", ""), ("stop", {}), ("stop", [None]), ("stream", 1), ("stream_options", []), ("stream_options", {"include_usage": "yes"}),
    ("metadata", 5), ("metadata", {"a": 5}), ("metadata", {f"k{n}": "v" for n in range(17)}), ("metadata", {"k" * 65: "v"}), ("metadata", {"k": "v" * 513}),
    ("user", 5), ("prompt_cache_key", []), ("safety_identifier", 5), ("service_tier", "fastest"), ("service_tier", []), ("modalities", "text"),
    ("prediction", {"type": "content", "content": 5}), ("prediction", {"type": "guess", "content": "x"}), ("reasoning_effort", "utmost"), ("reasoning_effort", 5),
    ("verbosity", "shouting"), ("verbosity", 5), ("logprobs", "no"), ("logit_bias", []), ("parallel_tool_calls", 1),
])
def test_every_wrong_type_or_range_is_a_400_that_names_the_parameter(server, param, value):
    streamed = {"stream": True} if param == "stream_options" else {}
    answer = chat(server, **{"messages": ask(QUESTION), **streamed, param: value})
    assert answer.status == 400, answer.text
    error = answer.error()
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(param), error


def test_a_parameter_named_twice_is_no_defect_of_ours(server):
    body = json.dumps({"model": "kiosk", "messages": ask(QUESTION), "max_tokens": 2})[:-1] + ', "max_tokens": 3}'
    assert server.http("POST", CHAT, body, {"content-type": "application/json"}).status in (200, 400)


@pytest.mark.parametrize(("stream", "tier", "echoed"), [(stream, tier, echoed) for stream in (False, True)
                                                         for tier, echoed in (("auto", "default"), ("default", "default"), ("flex", "flex"), ("priority", "priority"))])
def test_the_service_tier_is_echoed_whole_and_streamed(server, stream, tier, echoed):
    answer = chat(server, ask(QUESTION), service_tier=tier, stream=stream, max_tokens=3)
    objects = [event.json() for event in answer.events()[:-1]] if stream else [answer.json()]
    assert {one["service_tier"] for one in objects} == {echoed}
