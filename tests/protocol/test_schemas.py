"""The JSON Schemas say what the models say, and the files in schemas/ are what they say now."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from soma_core.cli.schema import FILES
from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.values import VALUE
from soma_core.protocol.commands import COMMANDS
from soma_core.protocol.json_schema import REPLY, SCHEMAS
from soma_core.protocol.parsing import CommandParser
from soma_core.protocol.replies import REPLIES, ErrorReply, Event
from tools import typescript

FOLDER = Path(__file__).parents[2] / "schemas"
ERROR = {"ok": False, "error": "no", "code": "internal"}


@cache
def schema(part: str) -> dict[str, Any]:
    return SCHEMAS[part]()


@pytest.mark.parametrize(("part", "name"), [(part.value, name) for part, name in FILES.items()])
def test_the_files_in_schemas_are_up_to_date(part, name):
    written = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    assert written == schema(part), "run: soma schema --out schemas"


def test_the_types_of_typescript_are_up_to_date():
    assert typescript.FILE.read_text(encoding="utf-8") == typescript.file(), (
        "run: python -m tools.typescript"
    )


@pytest.mark.parametrize("part", list(SCHEMAS))
def test_a_schema_is_valid_and_says_what_it_is(part):
    document = schema(part)
    Draft202012Validator.check_schema(document)
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert document["$id"].startswith("urn:soma:protocol:1:")


@pytest.mark.parametrize("part", list(SCHEMAS))
def test_a_schema_stands_alone(part):
    document = schema(part)
    names = {f"#/$defs/{name}" for name in document["$defs"]}
    assert _references(document) <= names


@pytest.mark.parametrize("part", list(SCHEMAS))
def test_the_branches_of_a_union_differ_in_a_required_constant(part):
    document = schema(part)
    for branch in document["oneOf"]:
        definition = document["$defs"][branch["$ref"].rpartition("/")[2]]
        properties = definition["properties"]
        assert {"cmd", "type", "ok", "event"} & set(properties) & set(definition["required"])


def test_every_command_and_reply_is_in_its_schema():
    assert {model.__name__ for model in COMMANDS} <= schema("commands")["$defs"].keys()
    replies = {model.__name__ for model in (*REPLIES, ErrorReply, Event)}
    assert replies <= schema("replies")["$defs"].keys()


def test_every_command_names_the_definition_of_its_reply():
    commands, replies = schema("commands"), schema("replies")
    successes = {one["$ref"] for one in replies["$defs"]["SuccessReply"]["anyOf"]}
    named = [commands["$defs"][model.__name__][REPLY] for model in COMMANDS]
    assert {f"#/$defs/{name}" for name in named} == successes
    own = dict(zip((model.__name__ for model in COMMANDS), named, strict=True))
    assert (own["Fit"], own["ListNodes"]) == ("FitReply", "ListReply")


def test_no_type_is_given_by_what_it_is_not():
    for part in SCHEMAS:
        assert '"not"' not in json.dumps(schema(part))


def test_what_is_said_of_a_field_is_in_the_schema():
    definitions = schema("commands")["$defs"]
    assert definitions["Fit"]["description"] == "Fit one node; what it learned becomes its state."
    state = definitions["Forward"]["properties"]["state"]
    assert state["description"].startswith("Omitted: the state that the node learned last.")
    shape = definitions["TensorData"]["properties"]["shape"]
    assert shape["description"] == "The length of each axis; empty for a single number."


def _references(node: object) -> set[str]:
    if isinstance(node, dict):
        found = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return found.union(*map(_references, node.values()))
    if isinstance(node, list):
        return set().union(*map(_references, node))
    return set()


GOOD_COMMANDS = [
    {"cmd": "PING"},
    {"cmd": "PING", "id": "a", "events": True, "meta": {"trace": [1]}},
    {"cmd": "PING", "id": 7, "meta": None},
    {"cmd": "LIST"},
    {"cmd": "SHUTDOWN"},
    {
        "cmd": "HELLO",
        "protocol": 1,
        "client": {"name": "n", "soma": "0", "python": "3", "cloudpickle": "3"},
    },
    {"cmd": "LOAD", "filters": [{"id": "a", "pickle_b64": "gASVAA=="}]},
    {"cmd": "LOAD", "filters": [{"id": "a", "pickle_b64": {"type": "Bytes", "data": [1]}}]},
    {"cmd": "LOAD", "filters": [{"id": "a", "filter": "x", "config": {"k": 1}}]},
    {"cmd": "LOAD", "filters": [{"id": "a", "filter": "x", "trainable": False}]},
    {"cmd": "UNLOAD", "node_ids": ["a"]},
    {"cmd": "FIT", "node_id": "a", "data": [1, 2], "y": None, "return_state": False},
    {"cmd": "FIT", "node_id": "a"},
    {"cmd": "FORWARD", "node_id": "a", "data": {"any": ["json", 1, None]}},
    {"cmd": "FORWARD", "node_id": "a", "data": {"type": "Empty"}, "state": {"type": "Empty"}},
    {"cmd": "COMPOSITE_FORWARD", "node_ids": ["a"], "data": 1, "states": {"a": None}},
    {"cmd": "COMPOSITE_FIT", "node_ids": ["a", "b"], "data": 1, "y": 2},
    {"cmd": "BATCHED_FIT", "node_ids": ["a"], "epochs": 2, "seed": 0, "collect": "all"},
    {"cmd": "GET_STATE", "node_id": "a", "format": "value"},
    {"cmd": "SET_STATE", "node_id": "a", "state_b64": "AA==", "fit_state": 1},
    {"cmd": "GET_GRADIENTS", "node_id": "a"},
    {"cmd": "APPLY_GRADIENTS", "node_id": "a", "gradients_b64": "AA=="},
]

BAD_COMMANDS = [
    None,
    [],
    "PING",
    {},
    {"cmd": None},
    {"cmd": "ping"},
    {"cmd": "DANCE"},
    {"cmd": "PING", "node_id": "a"},
    {"cmd": "PING", "id": 1.5},
    {"cmd": "PING", "id": True},
    {"cmd": "PING", "events": 1},
    {"cmd": "PING", "meta": []},
    {"cmd": "HELLO", "protocol": "1", "client": {}},
    {"cmd": "LOAD"},
    {"cmd": "LOAD", "filters": {}},
    {"cmd": "LOAD", "filters": [{"id": "a"}]},
    {"cmd": "LOAD", "filters": [{"id": "", "filter": "x"}]},
    {"cmd": "LOAD", "filters": [{"id": "a", "filter": "x", "pickle_b64": "AA=="}]},
    {"cmd": "LOAD", "filters": [{"id": "a", "pickle_b64": "AA==", "config": {"k": 1}}]},
    {"cmd": "UNLOAD", "node_ids": []},
    {"cmd": "FIT", "data": 1},
    {"cmd": "FIT", "node_id": "a", "dta": 1},
    {"cmd": "FIT", "node_id": 7},
    {"cmd": "COMPOSITE_FORWARD", "node_ids": [1]},
    {"cmd": "BATCHED_FIT", "node_ids": ["a"], "batch_size": 0},
    {"cmd": "BATCHED_FIT", "node_ids": ["a"], "batch_size": "32"},
    {"cmd": "BATCHED_FIT", "node_ids": ["a"], "seed": -1},
    {"cmd": "BATCHED_FIT", "node_ids": ["a"], "collect": "some"},
    {"cmd": "GET_STATE", "node_id": "a", "format": "pickle"},
    {"cmd": "SET_STATE", "node_id": "a"},
]


@pytest.mark.parametrize("message", GOOD_COMMANDS, ids=json.dumps)
def test_models_and_schema_accept_a_good_command(message):
    assert (_model_takes_command(message), _schema_takes("commands", message)) == (True, True)


@pytest.mark.parametrize("message", BAD_COMMANDS, ids=json.dumps)
def test_models_and_schema_refuse_a_bad_command(message):
    assert (_model_takes_command(message), _schema_takes("commands", message)) == (False, False)


GOOD_REPLIES = [
    {"ok": True},
    {"ok": True, "id": 3, "result": {"nested": [1, {"type": "Text", "data": "a"}]}},
    {"ok": True, "result": 1, "states": {"a": "AA=="}, "fit_states": {"a": 1}, "loss": None},
    {"ok": True, "result": 1, "states": {"a": {"w": 1}}, "losses": [0.5, 0.25]},
    {"ok": True, "filters": {"a": {"name": "A", "distribution": {"Remote": {"Tag": "gpu"}}}}},
    {"ok": True, "pid": 1, "incarnation": "x"},
    {"ok": True, "updated": ["w"]},
    *({**ERROR, "code": code.value} for code in ErrorCode),
    {**ERROR, "id": "a", "type": "ValueError", "cmd": "FIT", "node_id": None, "traceback": "…"},
    {"event": "progress", "cmd": "FIT", "data": {"epoch": 1}},
]

BAD_REPLIES = [
    None,
    {},
    {"result": 1},
    {"ok": None},
    {"ok": True, "surprise": 1},
    {"ok": True, "pid": "1", "incarnation": "x"},
    {"ok": True, "filters": {"a": {"kind": "Stateless"}}},
    {"ok": True, "filters": {"a": {"name": "A", "kind": "Weird"}}},
    {"ok": False},
    {"ok": False, "error": "no"},
    {**ERROR, "code": "odd"},
    {**ERROR, "result": 1},
    {"event": "party", "cmd": "FIT", "data": {}},
]


@pytest.mark.parametrize("message", GOOD_REPLIES, ids=json.dumps)
def test_models_and_schema_accept_a_good_reply(message):
    assert (_model_takes_reply(message), _schema_takes("replies", message)) == (True, True)


@pytest.mark.parametrize("message", BAD_REPLIES, ids=json.dumps)
def test_models_and_schema_refuse_a_bad_reply(message):
    assert (_model_takes_reply(message), _schema_takes("replies", message)) == (False, False)


GOOD_VALUES = [
    {"type": "Tensor", "data": {"values": [1.0, None], "shape": [2]}},
    {"type": "Tensor", "data": {"values": [1, 2], "shape": [2], "dtype": "int64"}},
    {"type": "Tensor", "data": {"b64": "AA==", "shape": [1], "dtype": "uint8"}},
    {"type": "Tensor", "data": {"values": [], "shape": [0], "container": "torch", "dtype": "bool"}},
    {"type": "Text", "data": "a"},
    {"type": "Json", "data": {"a": [1, None]}},
    {"type": "Json", "data": None},
    {"type": "Bytes", "data": [0, 255]},
    {"type": "Bytes", "data": {"b64": "AA=="}},
    {"type": "Empty"},
]

BAD_VALUES = [
    None,
    1,
    {},
    {"type": "Number", "data": 1},
    {"data": "a"},
    {"type": "Tensor", "data": {"values": [1.0]}},
    {"type": "Tensor", "data": {"shape": [1]}},
    {"type": "Tensor", "data": {"shape": [-1], "values": []}},
    {"type": "Tensor", "data": {"shape": [1], "values": [1], "b64": "AA==", "dtype": "uint8"}},
    {"type": "Tensor", "data": {"shape": [1], "b64": "AA=="}},
    {"type": "Tensor", "data": {"shape": [1], "values": None, "dtype": "uint8"}},
    {"type": "Tensor", "data": {"shape": [1], "values": [1], "container": "jax"}},
    {"type": "Text", "data": 1},
    {"type": "Json"},
    {"type": "Bytes", "data": [256]},
    {"type": "Bytes", "data": {}},
    {"type": "Object", "data": {"b64": "AA==", "buffer": 0}},
    {"type": "Empty", "data": None},
]


@pytest.mark.parametrize("value", GOOD_VALUES, ids=json.dumps)
def test_models_and_schema_accept_a_good_value(value):
    assert (_takes(VALUE, value), _schema_takes("values", value)) == (True, True)


@pytest.mark.parametrize("value", BAD_VALUES, ids=json.dumps)
def test_models_and_schema_refuse_a_bad_value(value):
    assert (_takes(VALUE, value), _schema_takes("values", value)) == (False, False)


_validator = cache(lambda part: Draft202012Validator(schema(part)))
_parser = cache(CommandParser)


def _schema_takes(part: str, message: object) -> bool:
    return _validator(part).is_valid(message)


def _model_takes_command(message: object) -> bool:
    try:
        _parser().check(json.dumps(message).encode())
    except ProtocolError:
        return False
    return True


def _model_takes_reply(message: object) -> bool:
    if not isinstance(message, dict) or not {"ok", "event"} & message.keys():
        return False  # the models fill in what tells replies apart, for those who make them
    return any(_takes(TypeAdapter(model), message) for model in (*REPLIES, ErrorReply, Event))


def _takes(adapter: TypeAdapter, message: object) -> bool:
    try:
        adapter.validate_json(json.dumps(message))
    except ValidationError:
        return False
    return True
