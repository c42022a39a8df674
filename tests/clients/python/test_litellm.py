"""LiteLLM, with the server as an `openai/` provider."""

import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # the list of prices is not fetched: these tests need no network

import litellm  # noqa: E402
import pytest  # noqa: E402
from gateway import ask  # noqa: E402
from pydantic import BaseModel, Field  # noqa: E402

QUESTION = "How much is the Brindle Oat Bar?"
TOOL = {"type": "function", "function": {"name": "open_map", "description": "Shows an aisle", "parameters": {
    "type": "object", "properties": {"aisle": {"type": "integer", "minimum": 1, "maximum": 20}}, "required": ["aisle"], "additionalProperties": False}}}


class Place(BaseModel):
    aisle: int = Field(ge=1, le=20)


@pytest.fixture
def complete(server):
    def call(**parameters):
        return litellm.completion(model="openai/kiosk", api_base=server.base_url, api_key="unused",
                                  **{"messages": ask(QUESTION), "temperature": 0, "max_tokens": 300, "num_retries": 0, **parameters})

    return call


def test_it_answers(complete):
    answer = complete()
    assert "2.49" in answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_it_streams(complete):
    pieces = list(complete(stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == complete().choices[0].message.content
    whole = litellm.stream_chunk_builder(pieces, messages=ask(QUESTION))
    assert whole.choices[0].message.content == complete().choices[0].message.content


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "open_map"}}])
def test_a_tool_is_called(complete, choice):
    [call] = complete(tools=[TOOL], tool_choice=choice, parallel_tool_calls=False).choices[0].message.tool_calls
    assert call.function.name == "open_map" and 1 <= json.loads(call.function.arguments)["aisle"] <= 20


def test_a_streamed_call_is_assembled(complete):
    pieces = list(complete(tools=[TOOL], tool_choice="required", parallel_tool_calls=False, stream=True))
    [call] = litellm.stream_chunk_builder(pieces).choices[0].message.tool_calls
    assert call.function.name == "open_map" and json.loads(call.function.arguments)


def test_a_pydantic_class_is_a_response_format(complete):
    assert 1 <= Place.model_validate_json(complete(response_format=Place).choices[0].message.content).aisle <= 20


def test_n_seed_and_logprobs_are_handed_on(complete):
    answer = complete(n=2, seed=1, temperature=1.5, max_tokens=8, logprobs=True, top_logprobs=2)
    assert len(answer.choices) == 2
    assert answer.choices[0].logprobs.content


def test_its_own_errors_are_raised(complete):
    with pytest.raises(litellm.BadRequestError):
        complete(temperature=5)
    with pytest.raises(litellm.ContextWindowExceededError):
        complete(messages=ask("where is it? " * 20_000))


def test_text_is_completed(server):
    answer = litellm.text_completion(model="text-completion-openai/kiosk", api_base=server.base_url, api_key="unused", prompt="The opening hours are", max_tokens=5)
    assert answer.choices[0].text


def test_responses_are_made(server):
    answer = litellm.responses(model="openai/kiosk", api_base=server.base_url, api_key="unused", input=QUESTION, max_output_tokens=50)
    assert answer.output
