"""`/openapi.json`: what the server says of itself."""

import pytest
from gateway import ask
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

ROUTES = {
    "/v1/chat/completions": "post", "/v1/completions": "post", "/v1/embeddings": "post", "/v1/responses": "post", "/v1/models": "get",
    "/v1/models/{id}": "get", "/tokenize": "post", "/detokenize": "post", "/health": "get", "/ready": "get", "/metrics": "get",
}


@pytest.fixture(scope="module")
def description(server) -> dict:
    answer = server.http("GET", "/openapi.json")
    assert answer.status == 200 and answer.headers["content-type"].startswith("application/json")
    return answer.json()


def operation(description: dict, path: str) -> dict:
    """A path's operation, whatever the path's parameters are called."""
    shape = path.split("{")[0].rstrip("/")
    [found] = [operations for name, operations in description["paths"].items() if name.split("{")[0].rstrip("/") == shape and ("{" in name) == ("{" in path)]
    return found[ROUTES[path]]


def request_schema(description: dict, path: str) -> Draft202012Validator:
    schema = operation(description, path)["requestBody"]["content"]["application/json"]["schema"]
    return Draft202012Validator({**schema, "components": description["components"]})


def test_it_is_valid(description):
    assert description["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(description).validate()


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_is_described(description, path):
    responses = operation(description, path)["responses"]
    assert "200" in responses
    if ROUTES[path] == "post":
        assert "400" in responses and operation(description, path)["requestBody"]["required"] is True


def test_every_described_route_is_there(server, description):
    for path, operations in description["paths"].items():
        for method in operations:
            if method in ("get", "post", "delete"):
                answer = server.http(method.upper(), path.replace("{id}", "kiosk").replace("{file}", "page.css"), "{}" if method == "post" else None, {"content-type": "application/json"})
                assert answer.status != 405 and not (answer.status == 404 and "there is nothing at" in answer.text), (method, path)


@pytest.mark.parametrize("parameters", [
    {}, {"n": 2, "stop": ["a", "b"], "seed": 1, "stream": True, "stream_options": {"include_usage": True}}, {"top_k": 5, "min_p": 0.1, "repeat_penalty": 1.1, "ignore_eos": True},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}}, {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"},
    {"logit_bias": {"5": 1}, "logprobs": True, "top_logprobs": 2, "max_tokens": None}, {"unknown": True},
])
def test_what_is_taken_is_described(server, description, parameters):
    body = {"model": "kiosk", "messages": ask("Hello"), "max_tokens": 2, **parameters}
    assert server.post("/v1/chat/completions", body).status == 200
    assert not list(request_schema(description, "/v1/chat/completions").iter_errors(body))


@pytest.mark.parametrize("parameters", [{"n": 0}, {"n": "2"}, {"temperature": 3}, {"temperature": "hot"}, {"top_logprobs": 21}, {"messages": []}, {"messages": "hello"}, {"stream": 1},
                                        {"max_tokens": 0}, {"stop": 5}, {"response_format": {"type": "xml"}}, {"tools": "find"}, {"messages": [{"role": "wizard", "content": "x"}]}])
def test_what_is_refused_is_described(server, description, parameters):
    body = {"model": "kiosk", "messages": ask("Hello"), "max_tokens": 2, **parameters}
    assert server.post("/v1/chat/completions", body).status == 400
    assert list(request_schema(description, "/v1/chat/completions").iter_errors(body))


def test_responses_are_as_described(server, description):
    schema = operation(description, "/v1/chat/completions")["responses"]["200"]["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": description["components"]}).validate(server.chat(max_tokens=2).json())


def test_errors_are_as_described(server, description):
    response = operation(description, "/v1/chat/completions")["responses"]["400"]
    if "$ref" in response:
        response = description["components"]["responses"][response["$ref"].rpartition("/")[2]]
    Draft202012Validator({**response["content"]["application/json"]["schema"], "components": description["components"]}).validate(server.chat(n=0).json())
