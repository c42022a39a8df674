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
