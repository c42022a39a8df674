"""Cuts what the client tests check against out of OpenAI's API description.

usage: extract.py OPENAPI_JSON    writes extract.json beside this file

The description is openapi.json of github.com/openai/openai-openapi (MIT, LICENSE beside this file). The extract is JSON
Schema 2020-12: texts and examples are left out, `nullable` becomes a union with null, `oneOf` becomes `anyOf` (OpenAI
tells alternatives apart by a discriminator, which JSON Schema does not know), and of long unions only what a text model
can send or be sent stays.
"""

import json
import sys
from pathlib import Path

ROOTS = """
CreateChatCompletionRequest CreateChatCompletionResponse CreateChatCompletionStreamResponse
CreateCompletionRequest CreateCompletionResponse CreateEmbeddingRequest CreateEmbeddingResponse
ListModelsResponse Model ErrorResponse CreateResponse Response ResponseItemList DeleteModelResponse
ResponseCreatedEvent ResponseInProgressEvent ResponseQueuedEvent ResponseCompletedEvent ResponseIncompleteEvent ResponseFailedEvent
ResponseErrorEvent ResponseOutputItemAddedEvent ResponseOutputItemDoneEvent ResponseContentPartAddedEvent ResponseContentPartDoneEvent
ResponseTextDeltaEvent ResponseTextDoneEvent ResponseRefusalDeltaEvent ResponseRefusalDoneEvent
ResponseFunctionCallArgumentsDeltaEvent ResponseFunctionCallArgumentsDoneEvent
ResponseReasoningTextDeltaEvent ResponseReasoningTextDoneEvent
ResponseReasoningSummaryPartAddedEvent ResponseReasoningSummaryPartDoneEvent
ResponseReasoningSummaryTextDeltaEvent ResponseReasoningSummaryTextDoneEvent
""".split()

# Unions of which only these alternatives stay.
KEPT = {
    "Annotation": [],
    "InputItem": ["EasyInputMessage", "Item", "ItemReferenceParam"],
    "Item": ["InputMessage", "OutputMessage", "FunctionToolCall", "FunctionCallOutputItemParam", "ReasoningItem"],
    "ItemResource": ["InputMessageResource", "OutputMessage", "FunctionToolCallResource", "FunctionToolCallOutputResource", "ReasoningItem"],
    "OutputItem": ["OutputMessage", "FunctionToolCall", "ReasoningItem"],
    "Tool": ["FunctionTool"],
    "ToolChoiceParam": ["ToolChoiceOptions", "ToolChoiceAllowed", "ToolChoiceFunction"],
}
# Lists of OpenAI's own models: any name will do.
ANY_NAME = {"ModelIdsShared", "ModelIdsResponses", "ModelIds"}
# Properties of hosted products that no test sends or expects.
LEFT_OUT = {"moderation", "conversation", "context_management", "prompt", "web_search_options", "audio", "caller"}
TEXTS = {"description", "title", "example", "deprecated", "discriminator", "default"}


def reduced(schema):
    """The schema without texts and OpenAI's own keywords."""
    if isinstance(schema, list):
        return [reduced(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key in TEXTS or key == "nullable" or key.startswith("x-"):
            continue
        if key == "properties":
            kept[key] = {name: reduced(one) for name, one in value.items() if name not in LEFT_OUT}
        elif key == "required":
            kept[key] = [name for name in value if name not in LEFT_OUT]
        elif key == "$ref":
            kept[key] = value.replace("#/components/schemas/", "#/$defs/")
        elif key in ("enum", "format", "pattern"):
            kept[key] = value
        else:
            kept["anyOf" if key == "oneOf" else key] = reduced(value)
    return {"anyOf": [kept, {"type": "null"}]} if schema.get("nullable") else kept


def only(schema: dict, names: list[str]) -> dict | bool:
    """The union with no other alternatives than these."""
    here = [one for one in schema["anyOf"] if name_of(one) in names]
    assert len(here) == len(names), (names, schema)
    return {"anyOf": here} if here else False


def name_of(schema: dict) -> str:
    return schema.get("$ref", "").removeprefix("#/$defs/")


def references(schema):
    if isinstance(schema, dict):
        if name := name_of(schema):
            yield name
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for one in schema:
            yield from references(one)


def extract(description: dict) -> dict:
    schemas = description["components"]["schemas"]
    definitions, waiting = {}, list(ROOTS)
    while waiting:
        name = waiting.pop()
        if name in definitions:
            continue
        schema = {"type": "string"} if name in ANY_NAME else reduced(schemas[name])
        definitions[name] = only(schema, KEPT[name]) if name in KEPT else schema
        waiting.extend(references(definitions[name]))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"Made by extract.py from OpenAI's API description {description['info']['version']} (MIT, see LICENSE).",
        "$defs": dict(sorted(definitions.items())),
    }


if __name__ == "__main__":
    description = json.loads(Path(sys.argv[1]).read_text())
    target = Path(__file__).with_name("extract.json")
    target.write_text(json.dumps(extract(description), indent=1) + "\n")
