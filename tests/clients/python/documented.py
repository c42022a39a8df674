"""Holds everything that the server sends against OpenAI's API description (../openai/extract.json).

`install()` looks into the HTTP transports below the SDKs, which stay as a user has them. What is wrong is kept in
`complaints`, and a fixture in conftest.py fails the test that caused it.
"""

import functools
import json
from pathlib import Path

import httpx
import httpx2
import sse
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

complaints: list[str] = []

DEFINITIONS = json.loads((Path(__file__).parents[1] / "openai/extract.json").read_text())["$defs"]
# What OpenAI itself sends beside its description: vectors as base64, `null` until a stream of completions ends, and for an
# echoed first token.
_embedding = DEFINITIONS["Embedding"]["properties"]
_embedding["embedding"] = {"anyOf": [_embedding["embedding"], {"type": "string"}]}
_choice = DEFINITIONS["CreateCompletionResponse"]["properties"]["choices"]["items"]["properties"]
_choice["finish_reason"] = {"anyOf": [_choice["finish_reason"], {"type": "null"}]}
_logprobs = _choice["logprobs"]["anyOf"][0]["properties"]
_logprobs["token_logprobs"]["items"] = {"type": ["number", "null"]}
_logprobs["top_logprobs"]["items"] = {"anyOf": [_logprobs["top_logprobs"]["items"], {"type": "null"}]}
_usage = DEFINITIONS["CreateCompletionResponse"]["properties"]
_usage["usage"] = {"anyOf": [_usage["usage"], {"type": "null"}]}
# What we take beyond it, everywhere: keys that nobody knows, and no model where there is one only.
_request = DEFINITIONS["CreateEmbeddingRequest"]
_request.pop("additionalProperties")
_request["required"].remove("model")
# And completions without a prompt, which OpenAI's own words allow.
DEFINITIONS["CreateCompletionRequest"].pop("required")

# path: what is sent, what comes back whole, what comes back as an event
DOCUMENTED = {
    "/v1/chat/completions": ("CreateChatCompletionRequest", "CreateChatCompletionResponse", "CreateChatCompletionStreamResponse"),
    "/v1/completions": ("CreateCompletionRequest", "CreateCompletionResponse", "CreateCompletionResponse"),
    "/v1/embeddings": ("CreateEmbeddingRequest", "CreateEmbeddingResponse", None),
    "/v1/responses": ("CreateResponse", "Response", None),
    "/v1/models": (None, "ListModelsResponse", None),
}
# The events of a response say what they are.
RESPONSE_EVENTS = {schema["properties"]["type"]["enum"][0]: name for name, schema in DEFINITIONS.items()
                   if name.startswith("Response") and name.endswith("Event")}
LAST_EVENTS = {"response.completed", "response.incomplete", "response.failed", "error"}


@functools.cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": DEFINITIONS})


def check(name: str | None, value, what: str):
    """Complains of `value` unless it is what OpenAI calls `name`."""
    if name and (error := best_match(validator(name).iter_errors(value))):
        complaints.append(f"{what} is no {name}: {error.json_path}: {error.message[:500]}")


def complain_unless(holds: bool, what: str, value=None):
    if not holds:
        complaints.append(f"{what}: {json.dumps(value)[:500]}")


def exchanged(method: str, path: str, sent: bytes, status: int, content_type: str, received: bytes, whole: bool = True):
    """Checks one request and its response; not `whole` if the client left before the end."""
    path = path.partition("?")[0]
    what = f"{method} {path} -> {status}"
    if status >= 400:
        # An SDK that tries again does not read why.
        if path.startswith("/v1/") and method != "HEAD" and whole:
            check("ErrorResponse", json.loads(received), what)
        return
    request, response, chunk = DOCUMENTED.get(path, (None, None, None))
    if path.startswith("/v1/models/"):
        response = "Model"
    if path.startswith("/v1/responses/") and method == "GET":
        response = "ResponseItemList" if path.endswith("/input_items") else "Response"
    if method == "POST" and request:
        # `null` means absent.
        body = {key: value for key, value in json.loads(sent).items() if value is not None}
        if path == "/v1/responses":
            # The description has one function tool for what is sent and what is told again; only there is all of it.
            body["tools"] = [{"strict": None, "parameters": None, **tool} for tool in body.get("tools", [])]
        check(request, body, f"what was sent and taken, {what},")
    if content_type.startswith("text/event-stream"):
        events = sse.read(received.decode()).events
        if path == "/v1/responses":
            check_response_stream(events, whole)
        elif whole:
            check_stream(chunk, events)
        else:
            for event in events:
                check_event(chunk, event)
    elif method in ("POST", "GET") and whole:
        check(response, json.loads(received) if response else None, what)


def check_event(name: str, event: sse.Event):
    if event.data != sse.DONE:
        value = event.json()
        check("ErrorResponse" if "error" in value else name, value, "an event")


def check_stream(name: str, events: list[sse.Event], resumed: bool = False):
    """A stream of chat completions or completions that was read to its end."""
    for event in events:
        check_event(name, event)
    chunks = [event.json() for event in events if event.data != sse.DONE]
    if chunks and "error" in chunks[-1]:
        complain_unless(all("error" not in chunk for chunk in chunks[:-1]), "something follows an error in a stream", chunks)
        return
    complain_unless(events and events[-1].data == sse.DONE, "a stream does not end with [DONE]", [event.data for event in events[-2:]])
    complain_unless(len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1, "the chunks of a stream differ in id, time or model", chunks[:3])
    for chunk in chunks:
        if not chunk["choices"]:
            complain_unless(chunk is chunks[-1] and chunk.get("usage"), "a chunk without choices is not the usage chunk at the end", chunk)
        elif chunk.get("usage"):
            complaints.append(f"usage beside choices: {chunk}")
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    for index in {choice["index"] for choice in choices}:
        check_choice([choice for choice in choices if choice["index"] == index], name, resumed)


def check_choice(pieces: list[dict], name: str, resumed: bool):
    """All pieces of one choice of a stream."""
    *before, last = pieces
    complain_unless(last["finish_reason"] is not None and all(piece["finish_reason"] is None for piece in before),
                    "the finish reason is not in the last piece of a choice alone", pieces[-2:])
    if name != "CreateChatCompletionStreamResponse":
        return
    complain_unless(last["delta"] == {}, "the piece with the finish reason has a delta", last)
    if not resumed:
        complain_unless(pieces[0]["delta"].get("role") == "assistant", "the first piece of a choice has no role", pieces[0])
        pieces = pieces[1:]
    complain_unless(all("role" not in piece["delta"] for piece in pieces), "the role comes twice", pieces[:3])
    if resumed:
        return
    begun: dict[int, str] = {}
    for call in (call for piece in pieces for call in piece["delta"].get("tool_calls", [])):
        function = call.get("function", {})
        if call["index"] in begun:
            complain_unless(call.get("id") in (None, begun[call["index"]]) and "name" not in function, "a call's id changes or its name comes twice", call)
        else:
            complain_unless(call["index"] == len(begun) and call.get("id") and function.get("name") and call.get("type") == "function",
                            "the first delta of a call lacks id, type or name, or its index is not the next", call)
            begun[call["index"]] = call.get("id")


def check_response_stream(events: list[sse.Event], whole: bool):
    """The events of POST /v1/responses."""
    numbers, kinds = [], []
    for event in events:
        if event.data == sse.DONE:
            complaints.append("a stream of responses ends with [DONE], which OpenAI's does not")
            continue
        value = event.json()
        kinds.append(value.get("type"))
        numbers.append(value.get("sequence_number"))
        if kinds[-1] in RESPONSE_EVENTS:
            check(RESPONSE_EVENTS[kinds[-1]], value, kinds[-1])
        else:
            complaints.append(f"no event of OpenAI's: {event.data[:300]}")
        complain_unless(event.event == kinds[-1], "the `event:` line is not the event's type", [event.event, kinds[-1]])
    complain_unless(numbers == list(range(len(numbers))), "the sequence numbers are not 0, 1, 2, …", numbers[:20])
    complain_unless(kinds[:2] == ["response.created", "response.in_progress"][:len(kinds)], "a response does not begin with created and in_progress", kinds[:2])
    if whole:
        complain_unless(kinds[-1:] and kinds[-1] in LAST_EVENTS and not LAST_EVENTS & set(kinds[:-1]), "a response has not one end", kinds[-2:])
    check_order(kinds)


OPENS_AND_CLOSES = {"response.output_item.added": "response.output_item.done", "response.content_part.added": "response.content_part.done"}
INSIDE = {"response.output_text.delta": "response.content_part.added", "response.output_text.done": "response.content_part.added",
          "response.content_part.added": "response.output_item.added", "response.function_call_arguments.delta": "response.output_item.added",
          "response.function_call_arguments.done": "response.output_item.added"}


def check_order(kinds: list[str]):
    """Items hold parts, parts hold text, and each ends before what holds it."""
    closes = {close: opens for opens, close in OPENS_AND_CLOSES.items()}
    open_now: list[str] = []
    for kind in kinds:
        if kind in INSIDE:
            complain_unless(open_now[-1:] == [INSIDE[kind]], f"{kind} comes outside of what holds it", kinds)
        if kind in OPENS_AND_CLOSES:
            open_now.append(kind)
        elif kind in closes:
            complain_unless(open_now[-1:] == [closes[kind]], f"{kind} closes what is not open", kinds)
            del open_now[-1:]


def _watch(library):
    """Makes every response that goes through this library's transport be checked when it was read or left."""
    handle = library.HTTPTransport.handle_request

    class Watched(library.SyncByteStream):
        def __init__(self, stream, done):
            self.stream, self.done, self.received, self.whole = stream, done, b"", False

        def __iter__(self):
            for piece in self.stream:
                self.received += piece
                yield piece
            self.whole = True

        def close(self):
            self.stream.close()
            if self.done:
                self.done(self.received, self.whole)
                self.done = None

    def handle_request(transport, request):
        response = handle(transport, request)
        content_type = response.headers.get("content-type", "")

        def done(received, whole):
            # The SDKs stop at [DONE] and do not read what is left, which is nothing.
            whole = whole or received.rstrip().endswith(b"[DONE]")
            try:
                exchanged(request.method, request.url.path, request.content, response.status_code, content_type, received, whole)
            except Exception as error:  # in a client's `close` it would vanish
                complaints.append(f"{request.method} {request.url.path}: {error!r}")

        response.stream = Watched(response.stream, done)
        return response

    library.HTTPTransport.handle_request = handle_request


def install():
    for library in (httpx, httpx2):
        _watch(library)
