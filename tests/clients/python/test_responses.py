"""`/v1/responses`: one item after another, whole and as events, with and without a memory of what was said."""

import json

import openai
import pytest
from gateway import STORE, ask
from pydantic import BaseModel, Field

PATH = "/v1/responses"
QUESTION = "How much is the Brindle Oat Bar?"


def respond(server, input=QUESTION, **parameters):
    return server.post(PATH, {"model": "kiosk", "input": input, **{"instructions": STORE, "temperature": 0, "max_output_tokens": 200, **parameters}})


def body_of(answer) -> dict:
    assert answer.status == 200, answer.text
    return answer.json()


def text_of(answer) -> str:
    return "".join(part["text"] for item in body_of(answer)["output"] if item["type"] == "message" for part in item["content"])


def chat_text(server, messages: list) -> str:
    return server.post("/v1/chat/completions", {"model": "kiosk", "messages": messages, "temperature": 0, "max_tokens": 200}).json()["choices"][0]["message"]["content"]


def message(role: str, kind: str, text: str) -> dict:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def test_a_question_gets_a_response(server):
    body = body_of(respond(server))
    assert body["id"].startswith("resp_") and body["object"] == "response"
    assert (body["status"], body["error"], body["incomplete_details"]) == ("completed", None, None)
    assert body["model"] == "kiosk" and body["instructions"] == STORE and body["temperature"] == 0
    [item] = body["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed") and item["id"].startswith("msg_")
    [part] = item["content"]
    assert (part["type"], part["annotations"]) == ("output_text", []) and "2.49" in part["text"]
    usage = body["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] and usage["output_tokens"] > 0


def test_it_is_what_chat_says(server):
    assert text_of(respond(server)) == chat_text(server, ask(QUESTION))


@pytest.mark.parametrize("items", [
    [{"role": "user", "content": QUESTION}],
    [{"type": "message", "role": "user", "content": QUESTION}],
    [message("user", "input_text", QUESTION)],
    [{"role": "user", "content": [{"type": "input_text", "text": "How much is "}, {"type": "input_text", "text": "the Brindle Oat Bar?"}]}],
])
def test_input_may_be_items(server, items):
    assert text_of(respond(server, items)) == text_of(respond(server))


def test_instructions_are_a_system_message(server):
    for role in ("system", "developer"):
        items = [{"role": role, "content": STORE}, {"role": "user", "content": QUESTION}]
        assert text_of(respond(server, items, instructions=None)) == text_of(respond(server))


def test_an_earlier_turn_may_be_sent_as_items(server):
    first = body_of(respond(server, "Where is the Velmont Ground Coffee?"))
    items = [{"role": "user", "content": "Where is the Velmont Ground Coffee?"}, *first["output"], {"role": "user", "content": "How much is it?"}]
    turns = [*ask("Where is the Velmont Ground Coffee?"), {"role": "assistant", "content": first["output"][0]["content"][0]["text"]}, {"role": "user", "content": "How much is it?"}]
    assert text_of(respond(server, items)) == chat_text(server, turns)


def test_an_earlier_turn_may_be_named(server):
    first = body_of(respond(server, "Where is the Velmont Ground Coffee?"))
    second = respond(server, "How much is it?", previous_response_id=first["id"])
    turns = [*ask("Where is the Velmont Ground Coffee?"), {"role": "assistant", "content": first["output"][0]["content"][0]["text"]}, {"role": "user", "content": "How much is it?"}]
    assert body_of(second)["previous_response_id"] == first["id"]
    assert text_of(second) == chat_text(server, turns)
    third = respond(server, "And the water?", previous_response_id=body_of(second)["id"])
    assert body_of(third)["usage"]["input_tokens"] > body_of(second)["usage"]["input_tokens"] > first["usage"]["input_tokens"]


def test_instructions_are_not_carried_over(server):
    """OpenAI: with previous_response_id the instructions of the earlier response are left behind."""
    first = body_of(respond(server))
    second = respond(server, "And the water?", previous_response_id=first["id"], instructions=None)
    assert body_of(second)["usage"]["input_tokens"] < first["usage"]["input_tokens"]


def test_two_conversations_may_part_at_the_same_turn(server):
    first = body_of(respond(server, "Where is the Velmont Ground Coffee?"))
    answers = [text_of(respond(server, question, previous_response_id=first["id"])) for question in ("How much is it?", "How much is it?", "Is it in stock?")]
    assert answers[0] == answers[1]


def test_a_stored_response_can_be_read_and_forgotten(server):
    first = body_of(respond(server))
    read = server.http("GET", f"{PATH}/{first['id']}")
    if read.status in (404, 405) and read.error()["code"] != "response_not_found":
        return  # a server may answer without letting responses be read
    assert read.status == 200 and read.json()["output"] == first["output"]
    assert server.http("DELETE", f"{PATH}/{first['id']}").status == 200
    assert respond(server, "And?", previous_response_id=first["id"]).status in (400, 404)


def test_what_was_not_stored_cannot_be_named(server):
    first = body_of(respond(server, store=False))
    answer = respond(server, "And the water?", previous_response_id=first["id"])
    assert answer.status in (400, 404), answer.text
    assert answer.error()["param"] == "previous_response_id"
    assert answer.error()["code"] == "previous_response_not_found"


@pytest.mark.parametrize("unknown", ["resp_0123456789abcdef", "", "not an id"])
def test_an_unknown_response_cannot_be_named(server, unknown):
    answer = respond(server, previous_response_id=unknown)
    assert answer.status in (400, 404) and answer.error()["param"] == "previous_response_id", answer.text


def test_a_response_that_was_cut_off_is_incomplete(server):
    body = body_of(respond(server, max_output_tokens=16, ignore_eos=True))
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert body["usage"]["output_tokens"] == 16
    assert body["output"][0]["status"] == "incomplete"


def events_of(answer) -> list[dict]:
    """The events; their shapes, numbers and nesting are checked of every stream."""
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream"), answer.text
    return [event.json() for event in answer.events()]


def test_the_events_of_a_text_come_in_the_documented_order(server):
    events = events_of(respond(server, stream=True))
    kinds = [event["type"] for event in events]
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    assert kinds[-4:] == ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed"]
    assert set(kinds[4:-4]) == {"response.output_text.delta"} and len(kinds) > 10


def test_the_events_say_what_the_whole_says(server):
    whole = body_of(respond(server))
    events = events_of(respond(server, stream=True))
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    done = {event["type"]: event for event in events if event["type"].endswith((".done", ".completed", ".created"))}
    assert text == done["response.output_text.done"]["text"] == done["response.content_part.done"]["part"]["text"] == text_of(respond(server))
    assert done["response.output_item.done"]["item"] == done["response.completed"]["response"]["output"][0]
    last = done["response.completed"]["response"]
    assert last["id"] == done["response.created"]["response"]["id"] and last["status"] == "completed"
    assert done["response.created"]["response"]["status"] == "in_progress" and done["response.created"]["response"]["output"] == []
    assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    ids = {event["item_id"] for event in events if "item_id" in event}
    assert ids == {last["output"][0]["id"]}


def test_a_stream_that_was_cut_off_ends_incomplete(server):
    last = events_of(respond(server, stream=True, max_output_tokens=16, ignore_eos=True))[-1]
    assert last["type"] == "response.incomplete" and last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_streamed_response_can_be_named_afterwards(server):
    last = events_of(respond(server, stream=True))[-1]["response"]
    assert respond(server, "And the water?", previous_response_id=last["id"]).status == 200


TOOL = {"type": "function", "name": "open_map", "description": "Shows an aisle", "strict": True, "parameters": {
    "type": "object", "properties": {"aisle": {"type": "integer", "minimum": 1, "maximum": 20}}, "required": ["aisle"], "additionalProperties": False}}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "open_map"},
                                    {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "open_map"}]}])
def test_a_tool_is_called(server, choice):
    body = body_of(respond(server, tools=[TOOL], tool_choice=choice, parallel_tool_calls=False))
    [call] = [item for item in body["output"] if item["type"] == "function_call"]
    assert call["name"] == "open_map" and call["call_id"] and call["id"] != call["call_id"] and call["status"] == "completed"
    assert 1 <= json.loads(call["arguments"])["aisle"] <= 20
    assert body["tools"][0]["name"] == "open_map" and body["tools"][0]["strict"] is True


def test_a_call_is_streamed_as_argument_deltas(server):
    events = events_of(respond(server, tools=[TOOL], tool_choice="required", parallel_tool_calls=False, stream=True))
    kinds = [event["type"] for event in events]
    assert [kind for kind in kinds if kind != "response.function_call_arguments.delta"] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.function_call_arguments.done", "response.output_item.done", "response.completed"]
    by_kind = {event["type"]: event for event in events}
    arguments = "".join(event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta")
    assert arguments == by_kind["response.function_call_arguments.done"]["arguments"] == by_kind["response.output_item.done"]["item"]["arguments"]
    assert by_kind["response.output_item.added"]["item"]["arguments"] == ""
    assert json.loads(arguments)


@pytest.mark.parametrize("named", [True, False])
def test_a_calls_result_is_taken(server, named):
    first = body_of(respond(server, tools=[TOOL], tool_choice="required", parallel_tool_calls=False))
    call = next(item for item in first["output"] if item["type"] == "function_call")
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": '{"shown": true}'}
    earlier = {"previous_response_id": first["id"]} if named else {}
    items = [result] if named else [{"role": "user", "content": QUESTION}, *first["output"], result]
    body = body_of(respond(server, items, tools=[TOOL], tool_choice="none", **earlier))
    without = body_of(respond(server, tools=[TOOL], tool_choice="none"))
    assert body["usage"]["input_tokens"] > without["usage"]["input_tokens"]


SCHEMA = {"type": "object", "properties": {"aisle": {"type": "integer", "minimum": 1, "maximum": 20}}, "required": ["aisle"], "additionalProperties": False}


def test_the_text_may_have_a_format(server):
    answer = respond(server, text={"format": {"type": "json_schema", "name": "place", "strict": True, "schema": SCHEMA}})
    assert 1 <= json.loads(text_of(answer))["aisle"] <= 20
    assert body_of(answer)["text"]["format"]["name"] == "place"
    assert respond(server, text={"format": {"type": "text"}}).status == 200
    loose = respond(server, "Answer in JSON: where is the coffee?", text={"format": {"type": "json_object"}})
    assert text_of(loose).lstrip().startswith("{")


def test_a_format_that_is_not_strict_is_a_400_that_says_where(server):
    answer = respond(server, text={"format": {"type": "json_schema", "name": "place", "strict": True, "schema": {**SCHEMA, "required": []}}})
    assert answer.status == 400
    error = answer.error()
    assert error["param"].startswith("text.format") and "aisle" in error["param"] + error["message"]


def test_metadata_and_settings_are_echoed(server):
    body = body_of(respond(server, metadata={"till": "3"}, top_p=0.5, parallel_tool_calls=False, user="till-3", service_tier="flex"))
    assert body["metadata"] == {"till": "3"} and body["top_p"] == 0.5 and body["parallel_tool_calls"] is False
    assert body["max_output_tokens"] == 200 and body["tool_choice"] == "auto" and body["tools"] == []
    assert body["service_tier"] == "flex"


@pytest.mark.parametrize(("parameters", "param"), [
    ({"input": None}, "input"), ({"input": 5}, "input"), ({"input": []}, "input"), ({"input": [5]}, "input[0]"), ({"input": [{"type": "song"}]}, "input[0]"),
    ({"input": [{"role": "wizard", "content": "x"}]}, "input[0]"), ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]}, "input[0].content[0]"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "JVBERi0="}]}]}, "input[0].content[0]"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"), ({"input": [{"type": "function_call_output", "call_id": "call_1"}]}, "input[0]"),
    ({"instructions": 5}, "instructions"), ({"temperature": 3}, "temperature"), ({"top_p": -1}, "top_p"), ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": "many"}, "max_output_tokens"), ({"stream": "yes"}, "stream"), ({"metadata": {"a": 1}}, "metadata"), ({"store": "yes"}, "store"),
    ({"background": True}, "background"), ({"previous_response_id": 5}, "previous_response_id"), ({"tools": [{"type": "web_search"}]}, "tools[0]"),
    ({"tools": [{"type": "function"}]}, "tools[0]"), ({"tool_choice": "sometimes"}, "tool_choice"), ({"text": {"format": {"type": "xml"}}}, "text"),
    ({"truncation": "sometimes"}, "truncation"), ({"include": ["everything"]}, "include"), ({"conversation": "conv_1"}, "conversation"), ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"reasoning": {"effort": "utmost"}}, "reasoning"), ({"model": "gpt-nonesuch"}, "model"),
])
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_named(server, parameters, param, stream):
    answer = respond(server, **{"input": QUESTION, "stream": stream, **parameters})
    assert answer.status == (404 if param == "model" else 400), answer.text
    assert (answer.error()["param"] or "").startswith(param), answer.text


def test_the_sdk_reads_lists_and_deletes_what_is_stored(client):
    first = client.responses.create(model="kiosk", instructions=STORE, input=QUESTION, temperature=0, metadata={"till": "3"})
    assert client.responses.retrieve(first.id) == first
    [item] = client.responses.input_items.list(first.id).data
    assert (item.role, item.content[0].text) == ("user", QUESTION)
    second = client.responses.create(model="kiosk", input="Where is it?", previous_response_id=first.id, max_output_tokens=20)
    pages = client.responses.input_items.list(second.id, order="asc", limit=1)
    assert [item.role for item in pages] == ["user", "assistant", "user"]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError) as error:
        client.responses.retrieve(first.id)
    assert error.value.code == "response_not_found"
    assert client.responses.retrieve(second.id) == second


def test_a_stored_item_may_be_referred_to(server):
    first = body_of(respond(server, "Where is the Velmont Ground Coffee?"))
    user, reference = {"role": "user", "content": "Where is the Velmont Ground Coffee?"}, {"type": "item_reference", "id": first["output"][0]["id"]}
    ask_again = {"role": "user", "content": "How much is it?"}
    assert text_of(respond(server, [user, reference, ask_again])) == text_of(respond(server, [user, *first["output"], ask_again]))


@pytest.mark.parametrize("parameters", [{"include": ["message.output_text.logprobs"], "top_logprobs": 2}, {"include": ["message.output_text.logprobs"]}])
def test_logprobs_are_included_where_wanted(server, parameters):
    part = body_of(respond(server, **parameters))["output"][0]["content"][0]
    assert "".join(token["token"] for token in part["logprobs"]) == part["text"]
    assert all(len(token["top_logprobs"]) == parameters.get("top_logprobs", 0) for token in part["logprobs"])
    events = events_of(respond(server, stream=True, **parameters))
    streamed = [token for event in events if event["type"] == "response.output_text.delta" for token in event["logprobs"]]
    assert [token["token"] for token in streamed] == [token["token"] for token in part["logprobs"]]


def test_deltas_may_be_obfuscated(server):
    events = events_of(respond(server, stream=True, stream_options={"include_obfuscation": True}))
    deltas = [event for event in events if event["type"].endswith(".delta")]
    assert deltas and all(event["obfuscation"] for event in deltas)


def test_a_conversation_too_long_is_refused_or_truncated(server):
    turns = [turn for number in range(250) for turn in ({"role": "user", "content": f"Thank you, number {number}!"}, {"role": "assistant", "content": "You are welcome!"})]
    turns.append({"role": "user", "content": QUESTION})
    refused = respond(server, turns)
    assert refused.status == 400 and (refused.error()["code"], refused.error()["param"]) == ("context_length_exceeded", "input")
    assert "2.49" in text_of(respond(server, turns, truncation="auto"))


def test_a_result_without_its_call_is_named(server):
    answer = respond(server, [{"type": "function_call_output", "call_id": "call_9", "output": "{}"}])
    assert answer.status == 400 and answer.error()["param"].startswith("input[0]") and "call_9" in answer.error()["message"]


@pytest.mark.parametrize(("parameter", "instead"), [("messages", "input"), ("max_tokens", "max_output_tokens"), ("response_format", "text.format")])
def test_what_chat_calls_differently_is_told_its_name_here(server, parameter, instead):
    answer = respond(server, **{parameter: 5})
    assert answer.status == 400 and answer.error()["param"] == parameter and instead in answer.error()["message"]


def test_the_sdk_responds(client):
    response = client.responses.create(model="kiosk", instructions=STORE, input=QUESTION, temperature=0)
    assert "2.49" in response.output_text
    second = client.responses.create(model="kiosk", input="Where is it?", previous_response_id=response.id, temperature=0, max_output_tokens=50)
    assert second.output_text


def test_the_sdks_stream_helper_assembles_the_response(client):
    with client.responses.stream(model="kiosk", instructions=STORE, input=QUESTION, temperature=0) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text
    assert "2.49" in text


class Place(BaseModel):
    aisle: int = Field(ge=1, le=20)


def test_the_sdk_parses_into_pydantic(client):
    response = client.responses.parse(model="kiosk", instructions=STORE, input=QUESTION, temperature=0, max_output_tokens=200, text_format=Place)
    assert isinstance(response.output_parsed, Place)


def test_the_sdks_pydantic_tools_are_parsed(client):
    response = client.responses.parse(model="kiosk", instructions=STORE, input=QUESTION, temperature=0, max_output_tokens=200,
                                      tools=[openai.pydantic_function_tool(Place, name="open_map")["function"] | {"type": "function"}], tool_choice="required")
    call = next(item for item in response.output if item.type == "function_call")
    assert isinstance(call.parsed_arguments, (Place, dict))
