"""Tools: what is offered, who must call, and how calls look whole and streamed."""

import json

import openai
import pytest
from gateway import ask
from jsonschema import Draft202012Validator
from openai import pydantic_function_tool
from pydantic import BaseModel, Field

QUESTION = "How much is the Zellwick Lamp?"


def tool(name: str, properties: dict, **more) -> dict:
    parameters = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": f"The tool {name}", "parameters": parameters, **more}}


# Bounded, so that the smallest model must come to an end.
FIND = tool("find_product", {"name": {"type": "string", "maxLength": 20}})
AISLE = tool("open_map", {"aisle": {"type": "integer", "minimum": 1, "maximum": 20}})
HELP = tool("call_staff", {"urgent": {"type": "boolean"}}, strict=True)
TOOLS = [FIND, AISLE, HELP]
BY_NAME = {one["function"]["name"]: one["function"] for one in TOOLS}


def named(name: str) -> dict:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(name) for name in names]}}


def call(server, tools=TOOLS, question=QUESTION, **parameters):
    return server.chat(question, tools=tools, **{"temperature": 0, "max_tokens": 300, **parameters})


def calls_of(answer, free: bool = False) -> list[dict]:
    """The calls of an answer, each of a tool on offer, with arguments of its schema unless the model was free."""
    assert answer.status == 200, answer.text
    message = answer.json()["choices"][0]["message"]
    calls = message.get("tool_calls") or []
    for one in calls:
        assert one["type"] == "function" and one["id"]
        described = BY_NAME[one["function"]["name"]]
        arguments = json.loads(one["function"]["arguments"])
        assert isinstance(arguments, dict)
        if not free or described.get("strict"):
            Draft202012Validator(described["parameters"]).validate(arguments)
    assert len({one["id"] for one in calls}) == len(calls)
    return calls


def finish_reason(answer) -> str:
    return answer.json()["choices"][0]["finish_reason"]


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_named_tool_is_called(server, name, temperature):
    answer = call(server, tool_choice=named(name), temperature=temperature, seed=3)
    [one] = calls_of(answer)
    assert one["function"]["name"] == name
    assert not answer.json()["choices"][0]["message"]["content"]
    assert finish_reason(answer) in ("tool_calls", "stop"), "OpenAI says stop where a function is named"


TEA = tool("find_product", {"name": {"enum": ["tea"]}, "aisle": {"enum": [1]}})
WHOLE = {"name": "tea", "aisle": 1}
# All of them stand in every call, some in its markup alone.
STOPS = ["\n", "<", "tool_call", " ", '"', "}", "name", ["tea", ": "], "</tool_call>"]


@pytest.mark.parametrize("stop", STOPS, ids=str)
@pytest.mark.parametrize("choice", ["required", named("find_product")], ids=["required", "named"])
def test_a_stop_string_never_ends_a_call(server, choice, stop):
    asked = {"tool_choice": choice, "stop": stop, "parallel_tool_calls": False, "n": 2}
    answer = call(server, [TEA], **asked)
    for one in answer.json()["choices"]:
        [made] = one["message"]["tool_calls"]
        assert json.loads(made["function"]["arguments"]) == WHOLE
        assert one["finish_reason"] == "tool_calls" and not one["message"]["content"]
    arguments, reasons = ["", ""], []
    for event in call(server, [TEA], stream=True, **asked).events()[:-1]:
        [one] = event.json()["choices"]
        assert not one["delta"].get("content")
        for delta in one["delta"].get("tool_calls", []):
            arguments[one["index"]] += delta["function"]["arguments"]
        reasons += [one["finish_reason"]] if one["finish_reason"] else []
    assert [json.loads(one) for one in arguments] == [WHOLE, WHOLE]
    assert reasons == ["tool_calls"] * 2


def content_and_arguments(events) -> tuple[str, str]:
    deltas = [choice["delta"] for event in events[:-1] for choice in event.json()["choices"]]
    calls = [one for delta in deltas for one in delta.get("tool_calls", [])]
    return "".join(delta.get("content") or "" for delta in deltas), "".join(one["function"]["arguments"] for one in calls)


@pytest.mark.parametrize("tokens", [*range(1, 14), 20])
def test_a_call_that_is_cut_off_shows_none_of_its_markup(server, tokens):
    asked = {"tool_choice": "required", "max_tokens": tokens, "parallel_tool_calls": False}
    answer = call(server, [FIND], **asked)
    [choice] = answer.json()["choices"]
    message = choice["message"]
    assert not message["content"]
    arguments = "".join(one["function"]["arguments"] for one in message.get("tool_calls", []))
    if choice["finish_reason"] == "tool_calls":
        assert isinstance(json.loads(arguments), dict)
    else:
        assert choice["finish_reason"] == "length"
    assert content_and_arguments(call(server, [FIND], stream=True, **asked).events()) == ("", arguments)


@pytest.mark.parametrize("tokens", [16, 17, 18])
def test_a_response_that_is_cut_off_in_a_call_is_incomplete(server, tokens):
    long = {"type": "function", "name": "f", "strict": False, "parameters": {
        "type": "object", "properties": {"text": {"type": "string", "minLength": 200, "maxLength": 300}}, "required": ["text"]}}
    answer = server.post("/v1/responses", {"model": "kiosk", "input": "Hello", "tools": [long], "tool_choice": "required",
                                           "max_output_tokens": tokens, "store": False})
    body = answer.json()
    assert body["status"] == "incomplete" and body["incomplete_details"]["reason"] == "max_output_tokens"
    [item] = body["output"]
    assert item["status"] == "incomplete" and "tool_call" not in json.dumps(item["content"] if item["type"] == "message" else item["arguments"])


@pytest.mark.parametrize("parallel", [None, True, False])
def test_a_named_tool_is_called_once(server, parallel):
    more = {} if parallel is None else {"parallel_tool_calls": parallel}
    for seed in range(3):
        answer = call(server, [TEA, AISLE], tool_choice=named("find_product"), temperature=1.5, seed=seed, **more)
        assert len(calls_of_any(answer)) == 1
    flat = {"type": "function", **TEA["function"]}
    answer = server.post("/v1/responses", {"model": "kiosk", "input": "Hello", "tools": [flat], "store": False,
                                           "tool_choice": {"type": "function", "name": "find_product"}, **more})
    assert [item["type"] for item in answer.json()["output"]] == ["function_call"]


def calls_of_any(answer) -> list[dict]:
    """The arguments of an answer's calls, of whichever tool."""
    assert answer.status == 200, answer.text
    return [json.loads(one["function"]["arguments"]) for one in answer.json()["choices"][0]["message"]["tool_calls"]]


DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
A = {"type": "object", "properties": {"a": DIGIT}, "required": ["a"]}
B = {"type": "object", "properties": {"b": DIGIT}, "required": ["b"], "additionalProperties": False}


def bare(parameters) -> dict:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


@pytest.mark.parametrize(("parameters", "names"), [
    ({**A, "allOf": [{"properties": {"b": DIGIT}, "required": ["b"]}]}, "ab"),
    ({**A, "allOf": [{"$ref": "#/$defs/b"}], "$defs": {"b": {"properties": {"b": DIGIT}, "required": ["b"]}}}, "ab"),
    ({**A, "anyOf": [{"properties": {"b": DIGIT}, "required": ["b"]}]}, "ab"),
    ({**A, "required": ["a", "b"]}, "ab"),
    ({"$ref": "#/$defs/b", "$defs": {"b": B}}, "b"),
    ({"type": ["object", "null"], "properties": {"a": DIGIT}, "required": ["a"]}, "a"),
    ({"properties": {"a": DIGIT}, "required": ["a"]}, "a"),
    ({"anyOf": [B, {"type": "string"}]}, "b"),
    ({}, ""),
])
def test_arguments_are_an_object_with_what_the_schema_requires_wherever_it_says_so(server, parameters, names):
    answer = call(server, [bare(parameters)], tool_choice="required", parallel_tool_calls=False)
    [arguments] = calls_of_any(answer)
    assert set(names) <= set(arguments)


@pytest.mark.parametrize("parameters", [
    {"type": "array", "items": DIGIT}, {"type": "string"}, {"type": ["string", "null"]}, {"const": 1}, {"enum": ["a", 2]},
    {"anyOf": [DIGIT, {"type": "null"}]}, {"$ref": "#/$defs/n", "$defs": {"n": DIGIT}}, True, False, [A],
], ids=str)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_parameters_that_are_no_object_are_refused_by_name(server, parameters, choice):
    answer = call(server, [FIND, bare(parameters)], tool_choice=choice)
    assert answer.status == 400, answer.text
    assert answer.error()["param"] == "tools[1].function.parameters"
    assert "object" in answer.error()["message"]


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_some_tool_is_called_where_one_is_required(server, temperature):
    for question in (QUESTION, "Good morning!", "How much is the Brindle Oat Bar?"):
        answer = call(server, question=question, tool_choice="required", temperature=temperature, seed=4, max_tokens=600)
        assert calls_of(answer)
        assert finish_reason(answer) == "tool_calls"


def test_no_tool_is_called_where_none_is_chosen(server):
    for question in (QUESTION, "How much is the Brindle Oat Bar?"):
        answer = call(server, question=question, tool_choice="none")
        message = answer.json()["choices"][0]["message"]
        assert not message.get("tool_calls") and message["content"]
        assert "<tool_call>" not in message["content"]
        assert finish_reason(answer) in ("stop", "length")


def test_auto_is_the_default(server):
    def without_ids(answer):
        choices = answer.json()["choices"]
        for one in choices[0]["message"].get("tool_calls") or []:
            del one["id"]
        return choices

    assert without_ids(call(server)) == without_ids(call(server, tool_choice="auto"))
    assert finish_reason(call(server)) == ("tool_calls" if calls_of(call(server), free=True) else "stop")


def test_none_is_the_default_without_tools(server):
    assert server.chat(tool_choice="none", max_tokens=2).status == 200
    assert server.chat(tools=[], max_tokens=2).status in (200, 400)


def test_only_allowed_tools_are_called(server):
    for name in BY_NAME:
        answer = call(server, tool_choice=allowed("required", name), temperature=1.5, seed=1, max_tokens=600)
        assert {one["function"]["name"] for one in calls_of(answer)} == {name}
        assert finish_reason(answer) == "tool_calls"
    answer = call(server, tool_choice=allowed("required", "open_map", "call_staff"), temperature=1.5, seed=2, max_tokens=600)
    assert {one["function"]["name"] for one in calls_of(answer)} <= {"open_map", "call_staff"}


def test_allowed_tools_need_not_be_called_in_mode_auto(server):
    for one in calls_of(call(server, tool_choice=allowed("auto", "find_product")), free=True):
        assert one["function"]["name"] == "find_product"


def test_only_one_call_where_parallel_calls_are_not_wanted(server):
    for seed in range(3):
        answer = call(server, tool_choice="required", parallel_tool_calls=False, temperature=1.5, seed=seed)
        assert len(calls_of(answer)) == 1


def test_a_strict_tool_is_kept_to(server):
    strict = tool("order", {"kind": {"enum": ["pickup", "delivery"]}, "items": {"type": "array", "minItems": 1, "maxItems": 2, "items": {
        "type": "object", "properties": {"quantity": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["quantity"], "additionalProperties": False}}}, strict=True)
    for temperature in (0, 2):
        answer = call(server, [strict], tool_choice="required", parallel_tool_calls=False, temperature=temperature, seed=6)
        [one] = answer.json()["choices"][0]["message"]["tool_calls"]
        Draft202012Validator(strict["function"]["parameters"]).validate(json.loads(one["function"]["arguments"]))


def test_a_strict_tool_is_kept_to_also_when_the_model_chose_to_call(server):
    strict = {**FIND, "function": {**FIND["function"], "strict": True}}
    for seed in range(4):
        answer = call(server, [strict], temperature=1, seed=seed)
        assert answer.status == 200, answer.text
        for one in answer.json()["choices"][0]["message"].get("tool_calls") or []:
            Draft202012Validator(FIND["function"]["parameters"]).validate(json.loads(one["function"]["arguments"]))


def test_a_tool_without_parameters_is_called_with_an_empty_object(server):
    bare = {"type": "function", "function": {"name": "ring_the_bell"}}
    [one] = call(server, [bare], tool_choice=named("ring_the_bell")).json()["choices"][0]["message"]["tool_calls"]
    assert json.loads(one["function"]["arguments"]) == {}


@pytest.mark.parametrize("choice", ["required", named("find_product"), allowed("required", "open_map"), "auto"])
def test_a_streams_calls_are_those_of_the_whole_answer(server, choice):
    """That ids stay, indices count up and names come once is checked of every stream."""
    whole = call(server, tool_choice=choice)
    pieces: dict[int, dict] = {}
    reasons = []
    for event in call(server, tool_choice=choice, stream=True).events()[:-1]:
        [one] = event.json()["choices"]
        reasons.append(one["finish_reason"])
        for delta in one["delta"].get("tool_calls", []):
            entry = pieces.setdefault(delta["index"], {"name": "", "arguments": ""})
            entry["name"] += delta["function"].get("name", "")
            entry["arguments"] += delta["function"].get("arguments", "")
    assert [pieces[index] for index in sorted(pieces)] == [one["function"] for one in calls_of(whole, free=choice == "auto")]
    assert reasons[-1] == finish_reason(whole)
    for piece in pieces.values():
        json.loads(piece["arguments"])


def test_arguments_come_in_pieces(server):
    """A client sees the arguments grow, rather than all of them at the end."""
    events = call(server, [FIND], tool_choice="required", parallel_tool_calls=False, stream=True).events()[:-1]
    deltas = [delta for event in events for choice in event.json()["choices"] for delta in choice["delta"].get("tool_calls", [])]
    assert len(deltas) > 2, deltas


def test_n_choices_each_have_their_calls(server):
    choices = call(server, tool_choice=named("open_map"), n=3, temperature=1.5, seed=2).json()["choices"]
    ids = [one["id"] for choice in choices for one in choice["message"]["tool_calls"]]
    assert len(choices) == 3 and len(set(ids)) == len(ids) == 3


def test_every_call_of_every_answer_has_an_id_of_its_own(server):
    ids = [one["id"] for _ in range(3) for one in calls_of(call(server, tool_choice=named("open_map")))]
    assert len(set(ids)) == 3


def conversation(*more: dict) -> list[dict]:
    return [*ask(QUESTION), *more]


CALLED = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "call_1", "type": "function", "function": {"name": "find_product", "arguments": '{"name": "Zellwick Lamp"}'}}]}


@pytest.mark.parametrize("content", ['{"price": "$31.40"}', [{"type": "text", "text": '{"price": "$31.40"}'}]])
def test_a_result_is_taken_as_text_or_in_parts(server, content):
    answer = server.post("/v1/chat/completions", {"model": "kiosk", "temperature": 0, "tools": TOOLS, "tool_choice": "none",
                                                  "messages": conversation(CALLED, {"role": "tool", "tool_call_id": "call_1", "content": content})})
    assert answer.json()["choices"][0]["message"]["content"]


def test_what_a_call_returned_reaches_the_model(server):
    def prompt_tokens(result: str) -> int:
        messages = conversation(CALLED, {"role": "tool", "tool_call_id": "call_1", "content": result})
        return server.post("/v1/chat/completions", {"model": "kiosk", "max_tokens": 1, "tools": TOOLS, "messages": messages}).json()["usage"]["prompt_tokens"]

    assert prompt_tokens("the lamp is in aisle nine, on the top shelf") > prompt_tokens("none")


def test_an_answers_call_can_be_sent_back_as_it_came(client):
    first = client.chat.completions.create(model="kiosk", messages=ask(QUESTION), tools=TOOLS, tool_choice=named("find_product"), temperature=0, max_tokens=300)
    message = first.choices[0].message
    results = [{"role": "tool", "tool_call_id": one.id, "content": '{"price": "$31.40"}'} for one in message.tool_calls]
    second = client.chat.completions.create(model="kiosk", messages=[*ask(QUESTION), message, *results], tools=TOOLS, temperature=0, max_tokens=100)
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


def test_two_calls_and_two_results_are_taken(server):
    called = {**CALLED, "tool_calls": [CALLED["tool_calls"][0], {"id": "call_2", "type": "function", "function": {"name": "open_map", "arguments": '{"aisle": 9}'}}]}
    results = [{"role": "tool", "tool_call_id": f"call_{number}", "content": "done"} for number in (1, 2)]
    answer = server.post("/v1/chat/completions", {"model": "kiosk", "max_tokens": 5, "tools": TOOLS, "messages": conversation(called, *results)})
    assert answer.status == 200, answer.text


@pytest.mark.parametrize(("parameters", "param"), [
    ({"tool_choice": "sometimes"}, "tool_choice"), ({"tool_choice": 5}, "tool_choice"), ({"tool_choice": {}}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice"), ({"tool_choice": named("no_such_tool")}, "tool_choice"),
    ({"tool_choice": allowed("required", "no_such_tool")}, "tool_choice"), ({"tool_choice": allowed("perhaps", "open_map")}, "tool_choice"),
    ({"tool_choice": "required", "tools": None}, "tool_choice"), ({"tool_choice": named("open_map"), "tools": None}, "tool_choice"),
    ({"tool_choice": {"type": "custom", "custom": {"name": "find_product"}}}, "tool_choice"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"), ({"tools": "find_product"}, "tools"), ({"tools": [5]}, "tools[0]"),
    ({"tools": [{"type": "custom", "custom": {"name": "shell"}}]}, "tools[0]"), ({"tools": [{"type": "web_search"}]}, "tools[0]"),
    ({"tools": [FIND, {"type": "function", "function": {}}]}, "tools[1]"), ({"tools": [{"type": "function", "function": {"name": "two words"}}]}, "tools[0]"),
    ({"tools": [{"type": "function", "function": {"name": "a", "parameters": "none"}}]}, "tools[0]"),
    ({"tools": [{"type": "function", "function": {"name": "a", "strict": "yes"}}]}, "tools[0]"),
])
def test_what_is_wrong_about_tools_is_named(server, parameters, param):
    answer = server.chat(**{"tools": TOOLS, **parameters})
    assert answer.status == 400, answer.text
    assert (answer.error()["param"] or "").startswith(param), answer.text


LONG = 12345678901234567890123


@pytest.mark.parametrize("beyond", [
    {"const": LONG}, {"type": "integer", "minimum": LONG}, {"type": "string", "maxLength": 1_000_000}, {"multipleOf": 0.12345},
], ids=lambda schema: str(schema)[:40])
def test_a_schema_that_cannot_be_followed_is_a_400_only_where_it_is_enforced(server, beyond):
    parameters = {"type": "object", "properties": {"a": beyond}}
    assert call(server, [bare(parameters)], tool_choice="auto", max_tokens=2).status == 200
    answer = call(server, [bare(parameters)], tool_choice="required", max_tokens=2)
    assert answer.status == 400, answer.text
    assert answer.error()["param"].startswith("tools[0].function.parameters.properties.a")


def prompt(server, messages: list[dict], **more) -> str:
    """What the model reads of a conversation."""
    tokens = server.post("/tokenize", {"model": "kiosk", "messages": messages, **more}).json()["tokens"]
    return server.post("/detokenize", {"model": "kiosk", "tokens": tokens}).json()["prompt"]


def test_the_model_reads_numbers_and_the_text_beside_a_call_as_they_were_written(server):
    arguments = f'{{"a": {LONG}, "b": [0.12345678901234567890], "c": 1}}'
    called = {"role": "assistant", "content": "Let me see.", "refusal": "Not all.", "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}]}
    messages = [{"role": "user", "content": "?"}, called, {"role": "tool", "tool_call_id": "call_1", "content": "done"}]
    text = prompt(server, messages, tools=[bare({"type": "object", "properties": {"a": {"const": LONG}}})])
    assert arguments in text
    assert text.count(str(LONG)) >= 2
    assert "Let me see.\n\nNot all." in text


def test_of_a_name_that_comes_twice_the_last_counts(server):
    body = '{"model": "nobody", "model": "kiosk", "max_tokens": 2, "messages": 5, "messages": [{"role": "x", "role": "user", "content": "hi"}]}'
    answer = server.http("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    assert answer.status == 200, answer.text


@pytest.mark.parametrize(("parameters", "where"), [
    ({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}, "additionalProperties"),
    ({"type": "object", "properties": {"name": {"type": "string"}}, "required": [], "additionalProperties": False}, "name"),
    ({"type": "object", "properties": {"name": {"allOf": [{"type": "string"}]}}, "required": ["name"], "additionalProperties": False}, "allOf"),
])
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_strict_tool_that_is_not_strict_is_a_400_that_says_where(server, parameters, where, choice):
    answer = call(server, [FIND, {"type": "function", "function": {"name": "order", "parameters": parameters, "strict": True}}], tool_choice=choice)
    assert answer.status == 400, answer.text
    error = answer.error()
    assert error["param"].startswith("tools[1].function"), error
    assert where in error["param"] + error["message"], error


class FindProduct(BaseModel):
    """Finds a product"""

    name: str = Field(max_length=20)
    aisle: int | None


def test_the_sdks_pydantic_tools_are_parsed(client):
    completion = client.chat.completions.parse(model="kiosk", messages=ask(QUESTION), temperature=0, max_tokens=300,
                                               tools=[pydantic_function_tool(FindProduct)], tool_choice=named("FindProduct"))
    [one] = completion.choices[0].message.tool_calls
    assert isinstance(one.function.parsed_arguments, FindProduct)


def test_the_sdks_stream_helper_follows_the_arguments(client):
    with client.chat.completions.stream(model="kiosk", messages=ask(QUESTION), temperature=0, max_tokens=300,
                                        tools=[pydantic_function_tool(FindProduct)], tool_choice="required", parallel_tool_calls=False) as stream:
        kinds = [event.type for event in stream]
        [one] = stream.get_final_completion().choices[0].message.tool_calls
    assert isinstance(one.function.parsed_arguments, FindProduct)
    assert "tool_calls.function.arguments.delta" in kinds
    assert kinds.count("tool_calls.function.arguments.done") == 1


def test_the_sdk_says_when_a_call_was_cut_off(client):
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="kiosk", messages=ask(QUESTION), temperature=0, max_tokens=2,
                                      tools=[pydantic_function_tool(FindProduct)], tool_choice=named("FindProduct"))
