"""`response_format`: what the model writes is JSON, and of the schema that was asked for."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from typing import Literal
from uuid import UUID

import pytest
from gateway import ask
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

QUESTION = "How much is the Brindle Oat Bar? Answer in JSON."


def obj(**properties) -> dict:
    """A strict object of these properties."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def wanted(schema: dict, name: str = "answer", strict: bool | None = True) -> dict:
    described = {"name": name, "schema": schema, **({} if strict is None else {"strict": strict})}
    return {"type": "json_schema", "json_schema": described}


def ask_for(server, schema: dict, **parameters):
    return server.chat(QUESTION, response_format=wanted(schema), **{"temperature": 0, "max_tokens": 400, **parameters})


def valid(schema: dict, answer):
    """The parsed content, which ended by itself and is of the schema."""
    assert answer.status == 200, answer.text
    [choice] = answer.json()["choices"]
    assert choice["finish_reason"] == "stop", choice
    assert choice["message"]["refusal"] is None
    value = json.loads(choice["message"]["content"])
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)
    return value


# All of these are bounded, so that the smallest model must come to an end.
SHORT = {"type": "string", "maxLength": 12}
BOUNDED = {
    "enum": obj(unit={"type": "string", "enum": ["piece", "kilogram"]}),
    "enum of numbers": obj(aisle={"enum": [3, 5, 7, 12]}),
    "an enum of multiples of a decimal": obj(price={"enum": [0.5, 0.3, 0.75], "multipleOf": 0.25}),
    "const": obj(kind={"const": "price"}, currency={"const": "$"}),
    "boolean and null": obj(in_stock={"type": "boolean"}, note={"type": "null"}),
    "integer bounds": obj(aisle={"type": "integer", "minimum": 1, "maximum": 40}),
    "exclusive bounds": obj(aisle={"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6}),
    "number bounds": obj(price={"type": "number", "minimum": 0, "maximum": 5}),
    "multiple of": obj(quantity={"type": "integer", "minimum": 0, "maximum": 100, "multipleOf": 12}),
    "string length": obj(name={"type": "string", "minLength": 3, "maxLength": 10}),
    "pattern": obj(code={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}),
    "array bounds": obj(aisles={"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 9}, "minItems": 2, "maxItems": 4}),
    "nested arrays": obj(shelves={"type": "array", "minItems": 1, "maxItems": 2, "items": {
        "type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "integer", "minimum": 0, "maximum": 9}}}),
    "nested objects": obj(product=obj(name=SHORT, place=obj(aisle={"type": "integer", "minimum": 1, "maximum": 20}, shelf={"enum": ["top", "bottom"]}))),
    "any of": obj(price={"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "null"}]}),
    "any of objects": obj(answer={"anyOf": [obj(kind={"const": "price"}, price={"type": "integer", "minimum": 0, "maximum": 9}), obj(kind={"const": "unknown"})]}),
    "type union": obj(price={"type": ["integer", "null"], "minimum": 0, "maximum": 9}),
    "definitions": {**obj(first={"$ref": "#/$defs/aisle"}, second={"$ref": "#/$defs/aisle"}), "$defs": {"aisle": {"type": "integer", "minimum": 1, "maximum": 20}}},
    "definition of an object": {**obj(product={"$ref": "#/$defs/product"}), "$defs": {"product": obj(name=SHORT)}},
    "email": obj(contact={"type": "string", "format": "email", "maxLength": 40}),
    "date": obj(day={"type": "string", "format": "date"}),
    "time": obj(at={"type": "string", "format": "time"}),
    "date-time": obj(at={"type": "string", "format": "date-time"}),
    "duration": obj(lasts={"type": "string", "format": "duration"}),
    "uuid": obj(id={"type": "string", "format": "uuid"}),
    "ipv4": obj(till={"type": "string", "format": "ipv4"}),
    "ipv6": obj(till={"type": "string", "format": "ipv6"}),
    "hostname": obj(till={"type": "string", "format": "hostname"}),
    "a reference with a description": {**obj(aisle={"$ref": "#/$defs/aisle", "description": "where"}), "$defs": {"aisle": {"type": "integer", "minimum": 1, "maximum": 20}}},
    "any of definitions": {**obj(answer={"anyOf": [{"$ref": "#/$defs/price"}, {"$ref": "#/$defs/none"}]}),
                           "$defs": {"price": obj(price={"type": "integer", "minimum": 0, "maximum": 9}), "none": {"type": "null"}}},
    "old definitions": {**obj(aisle={"$ref": "#/definitions/aisle"}), "definitions": {"aisle": {"type": "integer", "minimum": 1, "maximum": 20}}},
    "an enum of several types": obj(value={"enum": [1, "one", None, True, 1.5]}),
    "an enum in other scripts": obj(value={"enum": ["Käse", "コーヒー", "🧀", 'quoted "so"', "back\\slash", "new\nline"]}),
    "array of objects": obj(products={"type": "array", "minItems": 1, "maxItems": 2, "items": obj(name=SHORT, in_stock={"type": "boolean"})}),
    "names that need quotes": obj(**{"preis in €": {"enum": [1, 2]}, 'with "quotes"': {"type": "boolean"}, "with\nnewline": {"const": 0}}),
    "no properties": obj(),
    "descriptions and titles": {**obj(aisle={"type": "integer", "minimum": 1, "maximum": 9, "description": "where it is", "title": "Aisle"}), "title": "Place", "description": "a place"},
}


@pytest.mark.parametrize("case", BOUNDED)
def test_the_answer_is_of_the_schema(server, case):
    valid(BOUNDED[case], ask_for(server, BOUNDED[case]))


@pytest.mark.parametrize("case", BOUNDED)
def test_the_answer_is_of_the_schema_also_when_sampled_wildly(server, case):
    for seed in (1, 2):
        answer = ask_for(server, BOUNDED[case], temperature=2, seed=seed, max_tokens=600)
        if answer.json()["choices"][0]["finish_reason"] == "stop":  # a duration or a time may have digits without end
            valid(BOUNDED[case], answer)


class Plain(BaseModel):
    name: str
    price: float
    aisle: int
    in_stock: bool
    tags: list[str]


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_schema_without_bounds_comes_to_an_end(client, temperature):
    """A small model writes digits and words without end, but no client can use those."""
    completion = client.chat.completions.parse(model="kiosk", messages=ask(QUESTION), temperature=temperature, seed=1, max_tokens=500, response_format=Plain)
    assert isinstance(completion.choices[0].message.parsed, Plain)


def test_properties_come_in_the_order_of_the_schema(server):
    names = ["zebra", "apple", "mango", "banana"]
    assert list(valid({}, ask_for(server, obj(**{name: {"enum": [1, 2]} for name in names})))) == names


TREE = {**obj(value={"type": "integer", "minimum": 0, "maximum": 9}, children={"type": "array", "items": {"$ref": "#"}, "maxItems": 1})}
LIST = {**obj(head={"$ref": "#/$defs/node"}), "$defs": {"node": obj(value={"enum": [1, 2]}, next={"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]})}}


@pytest.mark.parametrize("schema", [TREE, LIST], ids=["root", "definition"])
def test_recursive_schemas_are_kept_to(server, schema):
    """A small model may go deeper and deeper: some of these must come back up."""
    answers = [ask_for(server, schema, temperature=1.5, seed=seed) for seed in range(8)]
    ended = [answer for answer in answers if answer.json()["choices"][0]["finish_reason"] == "stop"]
    assert ended
    for answer in ended:
        valid(schema, answer)


def test_an_answer_that_is_cut_off_says_so(server):
    choice = ask_for(server, obj(names={"type": "array", "items": SHORT, "minItems": 20}), max_tokens=10).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].lstrip().startswith("{")


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_json_object_is_an_object(server, temperature):
    answers = [server.chat(QUESTION, response_format={"type": "json_object"}, temperature=temperature, seed=seed, max_tokens=300) for seed in range(4)]
    for answer in answers:
        choice = answer.json()["choices"][0]
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(choice["message"]["content"]), dict)
        else:
            assert choice["message"]["content"].lstrip().startswith("{")


def test_text_is_the_default_format(server):
    assert server.chat(temperature=0, response_format={"type": "text"}).json()["choices"] == server.chat(temperature=0).json()["choices"]


@pytest.mark.parametrize("strict", [False, None])
def test_a_schema_that_is_not_strict_may_say_less(server, strict):
    schema = {"type": "object", "properties": {"aisle": {"type": "integer", "minimum": 1, "maximum": 20}}, "required": ["aisle"]}
    answer = server.chat(QUESTION, temperature=0, max_tokens=300, response_format=wanted(schema, strict=strict))
    assert answer.status == 200, answer.text


def test_a_stream_is_of_the_schema_too(server):
    schema = BOUNDED["nested objects"]
    answer = ask_for(server, schema, stream=True)
    text = "".join(choice["delta"].get("content") or "" for event in answer.events()[:-1] for choice in event.json()["choices"])
    assert json.loads(text) == valid(schema, ask_for(server, schema))


def test_eight_schemas_at_once_are_not_mixed_up(server):
    names = list(BOUNDED)[:8]
    with ThreadPoolExecutor(16) as clients:
        free = [clients.submit(server.chat, temperature=0) for _ in names]
        for name, answer in zip(names, clients.map(lambda name: ask_for(server, BOUNDED[name]), names), strict=True):
            valid(BOUNDED[name], answer)
        assert len({answer.result().json()["choices"][0]["message"]["content"] for answer in free}) == 1


def test_a_seed_repeats_a_constrained_answer(server):
    schema = BOUNDED["nested objects"]
    first, again = (valid(schema, ask_for(server, schema, temperature=1.2, seed=5)) for _ in range(2))
    assert first == again


class Unit(str, Enum):
    piece = "piece"
    kilogram = "kilogram"


class Place(BaseModel):
    aisle: int = Field(ge=1, le=20)
    shelf: Literal["top", "middle", "bottom"]


class Product(BaseModel):
    name: str = Field(max_length=20)
    unit: Unit
    place: Place
    other_places: list[Place] = Field(max_length=2)
    discount: int | None
    delivered: date


def test_the_sdk_parses_into_pydantic(client):
    completion = client.chat.completions.parse(model="kiosk", messages=ask(QUESTION), temperature=0, max_tokens=500, response_format=Product)
    product = completion.choices[0].message.parsed
    assert isinstance(product, Product) and 1 <= product.place.aisle <= 20


class Priced(BaseModel):
    price: Decimal
    account: Literal[4000056655665556, 9007199254740993]


def test_pydantics_decimals_and_long_numbers_can_be_asked_for(server):
    """The pattern of a Decimal looks ahead, which nothing here can follow: where the schema is not strict, any text may come."""
    schema = Priced.model_json_schema()
    answer = server.chat(QUESTION, temperature=0, max_tokens=300, response_format=wanted(schema, strict=None))
    assert answer.status == 200, answer.text
    value = json.loads(answer.json()["choices"][0]["message"]["content"])
    assert set(value) >= {"price", "account"} and value["account"] in (4000056655665556, 9007199254740993)


DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
POINTERS = {
    "#/$defs/Shop~1Item": "Shop/Item", "#/$defs/a~0b": "a~b", "#/$defs/Price%20Tag": "Price Tag",
    "#/$defs/Page%3CItem%3E": "Page<Item>", "#/$defs/Gr%C3%B6%C3%9Fe": "Größe", "#/$defs/50%25": "50%",
}


@pytest.mark.parametrize("pointer", POINTERS)
def test_references_find_names_however_they_are_written(server, pointer):
    schema = {**obj(v={"$ref": pointer}), "$defs": {POINTERS[pointer]: DIGIT}}
    assert 0 <= valid(schema, ask_for(server, schema))["v"] <= 9
    body = {"model": "kiosk", "input": QUESTION, "text": {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}}
    answer = server.post("/v1/responses", body)
    assert answer.status == 200, answer.text
    [item] = answer.json()["output"]
    assert 0 <= json.loads(item["content"][0]["text"])["v"] <= 9
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    answer = server.chat(QUESTION, tools=[tool], tool_choice="required", temperature=0, parallel_tool_calls=False, max_tokens=200)
    [call] = answer.json()["choices"][0]["message"]["tool_calls"]
    assert 0 <= json.loads(call["function"]["arguments"])["v"] <= 9


class Till(BaseModel):
    address: IPv4Address
    id: UUID
    since: datetime


def test_pydantics_formats_are_kept_to(client):
    parsed = client.chat.completions.parse(model="kiosk", messages=ask(QUESTION), temperature=0, max_tokens=500, response_format=Till).choices[0].message.parsed
    assert isinstance(parsed.address, IPv4Address) and isinstance(parsed.id, UUID)


def test_the_sdks_stream_helper_parses_into_pydantic(client):
    with client.chat.completions.stream(model="kiosk", messages=ask(QUESTION), temperature=0, max_tokens=500, response_format=Product) as stream:
        kinds = {event.type for event in stream}
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Product)
    assert {"chunk", "content.delta", "content.done"} <= kinds


NESTED = obj(a={"type": "integer"})
for _ in range(200):
    NESTED = obj(a=NESTED)
NOT_STRICT = {
    "additional properties allowed": ({"type": "object", "properties": {"aisle": {"type": "integer"}}, "required": ["aisle"]}, "additionalProperties"),
    "additional properties true": ({**obj(aisle={"type": "integer"}), "additionalProperties": True}, "additionalProperties"),
    "a property that is not required": ({**obj(aisle={"type": "integer"}, shelf={"type": "string"}), "required": ["aisle"]}, "shelf"),
    "no required at all": ({"type": "object", "properties": {"aisle": {"type": "integer"}}, "additionalProperties": False}, "aisle"),
    "additional properties allowed below": (obj(product={"type": "object", "properties": {}, "required": []}), "product"),
    "additional properties allowed in a definition": ({**obj(product={"$ref": "#/$defs/item"}), "$defs": {"item": {"type": "object", "properties": {}}}}, "item"),
    "additional properties allowed in an array": (obj(products={"type": "array", "items": {"type": "object", "properties": {}}}), "products"),
    "a root that is no object": ({"type": "array", "items": {"type": "integer"}}, "object"),
    "a root that is a union": ({"anyOf": [obj(a={"type": "integer"}), obj(b={"type": "integer"})]}, "object"),
    "all of": (obj(price={"allOf": [{"type": "integer"}]}), "allOf"),
    "not": (obj(price={"not": {"type": "integer"}}), "not"),
    "if": (obj(price={"type": "integer", "if": {"minimum": 3}, "then": {"maximum": 5}}), "if"),
    "pattern properties": ({**obj(a={"type": "integer"}), "patternProperties": {"^b": {"type": "integer"}}}, "patternProperties"),
    "a reference to nothing": (obj(price={"$ref": "#/$defs/nothing"}), "price"),
    "a reference to elsewhere": (obj(price={"$ref": "https://example.com/schema.json"}), "price"),
    "an unknown type": (obj(price={"type": "money"}), "money"),
    "a type that is no name": (obj(price={"type": 5}), "type"),
    "an enum of nothing": (obj(price={"enum": []}), "enum"),
    "properties that are a list": ({"type": "object", "properties": ["a"], "required": [], "additionalProperties": False}, "properties"),
    "a pattern that repeats a repetition": (obj(price={"type": "string", "pattern": "^a{2}{3}$"}), "pattern"),
    "bounds that contradict": (obj(price={"type": "integer", "minimum": 5, "maximum": 4}), "price"),
}


@pytest.mark.parametrize("case", NOT_STRICT)
def test_what_strict_does_not_allow_is_a_400_that_says_where(server, case):
    schema, where = NOT_STRICT[case]
    answer = ask_for(server, schema)
    assert answer.status == 400, answer.text
    error = answer.error()
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith("response_format"), error
    assert where in error["param"] + error["message"], error


@pytest.mark.parametrize(("response_format", "param"), [
    ("json_object", "response_format"), (5, "response_format"), ([], "response_format"), ({}, "response_format"),
    ({"type": "xml"}, "response_format"), ({"type": 5}, "response_format"), ({"type": "json_schema"}, "response_format"),
    ({"type": "json_schema", "json_schema": {}}, "response_format"), ({"type": "json_schema", "json_schema": {"schema": obj()}}, "response_format"),
    ({"type": "json_schema", "json_schema": {"name": "a b!", "schema": obj()}}, "response_format"),
    ({"type": "json_schema", "json_schema": {"name": "x" * 65, "schema": obj()}}, "response_format"),
    ({"type": "json_schema", "json_schema": {"name": 5, "schema": obj()}}, "response_format"),
    ({"type": "json_schema", "json_schema": {"name": "a", "strict": "yes", "schema": obj()}}, "response_format"),
    ({"type": "json_schema", "json_schema": {"name": "a", "schema": "object"}}, "response_format"),
])
def test_a_format_that_is_wrong_is_named(server, response_format, param):
    answer = server.chat(response_format=response_format)
    assert answer.status == 400, answer.text
    assert (answer.error()["param"] or "").startswith(param), answer.text


HOSTILE = {
    "deep": NESTED,
    "a reference to itself": {**obj(a={"$ref": "#/$defs/a"}), "$defs": {"a": {"$ref": "#/$defs/a"}}},
    "references in a circle": {**obj(a={"$ref": "#/$defs/a"}), "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "definitions that double": {**obj(a={"$ref": "#/$defs/d0"}), "$defs": {
        **{f"d{n}": obj(l={"$ref": f"#/$defs/d{n + 1}"}, r={"$ref": f"#/$defs/d{n + 1}"}) for n in range(40)}, "d40": {"type": "null"}}},
    "unions of unions": obj(a={"anyOf": [{"anyOf": [{"anyOf": [{"type": "string", "pattern": f"^{a}{b}{c}.*x$"} for a in "abcdefgh"]} for b in "abcdefgh"]} for c in "abcdefgh"]}),
    "a large enum": obj(a={"enum": [f"value number {n} of very many" for n in range(20_000)]}),
    "many properties": obj(**{f"property_{n}": {"type": "integer"} for n in range(5_000)}),
    "a pattern that repeats repetitions": obj(a={"type": "string", "pattern": "^((((a{1,100}){1,100}){1,100}){1,100}){1,100}$"}),
    "a pattern that looks back": obj(a={"type": "string", "pattern": r"^(a+)+\1$"}),
    "a pattern that explodes": obj(a={"type": "string", "pattern": "^(.*a.{1000}){50}$"}),
    "a string of a billion": obj(a={"type": "string", "minLength": 1_000_000_000}),
    "an array of a billion": obj(a={"type": "array", "items": {"type": "null"}, "minItems": 1_000_000_000}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_schema_costs_the_others_nothing(server, case):
    """It is refused or answered, soon, and the server neither grows by much nor stops serving."""
    before = server.metric("process_resident_memory_bytes")
    began = time.monotonic()
    with ThreadPoolExecutor(1) as attacker:
        attack = attacker.submit(ask_for, server, HOSTILE[case], max_tokens=20)
        while not attack.done():
            neighbour = time.monotonic()
            assert server.chat(max_tokens=1).status == 200
            assert time.monotonic() - neighbour < 5, "a neighbour waited"
        answer = attack.result()
    assert time.monotonic() - began < 15
    assert answer.status in (200, 400), answer.text
    if answer.status == 400:
        assert (answer.error()["param"] or "response_format").startswith("response_format")
    assert server.metric("process_resident_memory_bytes") - before < 500e6
