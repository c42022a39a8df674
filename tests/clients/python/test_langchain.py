"""LangChain's ChatOpenAI, set up as its documentation says."""

import pytest
from gateway import ask
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

QUESTION = "How much is the Brindle Oat Bar?"
[SYSTEM, USER] = ask(QUESTION)
MESSAGES = [SystemMessage(SYSTEM["content"]), HumanMessage(QUESTION)]


@pytest.fixture
def chat(server):
    return ChatOpenAI(model="kiosk", base_url=server.base_url, api_key="unused", temperature=0, max_tokens=300, max_retries=0)


@tool
def open_map(aisle: int) -> str:
    """Shows an aisle on the map."""
    return f"aisle {aisle} is shown"


class Place(BaseModel):
    """Where something is."""

    aisle: int = Field(ge=1, le=20)
    shelf: str = Field(max_length=10)


def test_it_answers(chat):
    answer = chat.invoke(MESSAGES)
    assert "2.49" in answer.content
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["finish_reason"] == "stop"


def test_a_chain_answers(chat):
    chain = ChatPromptTemplate.from_messages([("system", SYSTEM["content"].replace("{", "{{")), ("user", "{question}")]) | chat
    assert chain.invoke({"question": QUESTION}).content == chat.invoke(MESSAGES).content


def test_it_streams(chat):
    pieces = list(chat.stream(MESSAGES, stream_usage=True))
    assert "".join(piece.content for piece in pieces) == chat.invoke(MESSAGES).content
    whole = sum(pieces[1:], pieces[0])
    assert whole.usage_metadata["output_tokens"] > 0


def test_a_batch_is_answered(chat):
    assert len({answer.content for answer in chat.batch([MESSAGES] * 4)}) == 1


@pytest.mark.parametrize("choice", ["any", "open_map", "required"])
def test_a_bound_tool_is_called(chat, choice):
    answer = chat.bind_tools([open_map], tool_choice=choice, parallel_tool_calls=False).invoke(MESSAGES)
    [call] = answer.tool_calls
    assert call["name"] == "open_map" and isinstance(call["args"]["aisle"], int)
    result = open_map.invoke(call)
    assert isinstance(result, ToolMessage)
    last = chat.bind_tools([open_map], tool_choice="none").invoke([*MESSAGES, answer, result])
    assert isinstance(last, AIMessage) and not last.tool_calls


def test_a_strict_tool_is_called(chat):
    [call] = chat.bind_tools([open_map], tool_choice="any", strict=True, parallel_tool_calls=False).invoke(MESSAGES).tool_calls
    assert set(call["args"]) == {"aisle"}


def test_a_streamed_call_is_assembled(chat):
    pieces = list(chat.bind_tools([open_map], tool_choice="any", parallel_tool_calls=False).stream(MESSAGES))
    [call] = sum(pieces[1:], pieces[0]).tool_calls
    assert isinstance(call["args"]["aisle"], int)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_of_the_class(chat, method):
    place = chat.with_structured_output(Place, method=method).invoke(MESSAGES)
    assert isinstance(place, Place) and 1 <= place.aisle <= 20


def test_structured_output_may_be_a_dict(chat):
    place = chat.with_structured_output(Place.model_json_schema() | {"additionalProperties": False}, method="json_schema", strict=True).invoke(MESSAGES)
    assert 1 <= place["aisle"] <= 20


def test_logprobs_are_handed_on(chat):
    answer = chat.bind(logprobs=True, top_logprobs=2).invoke(MESSAGES)
    assert len(answer.response_metadata["logprobs"]["content"][0]["top_logprobs"]) == 2


def test_the_responses_api_is_used_where_wanted(server):
    chat = ChatOpenAI(model="kiosk", base_url=server.base_url, api_key="unused", temperature=0, max_tokens=300, max_retries=0, use_responses_api=True)
    assert "2.49" in chat.invoke(MESSAGES).text
    assert "".join(piece.text for piece in chat.stream(MESSAGES)) == chat.invoke(MESSAGES).text
    [call] = chat.bind_tools([open_map], tool_choice="any").invoke(MESSAGES).tool_calls[:1]
    assert call["name"] == "open_map"
