"""JSON Schema 2020-12 of commands, replies and values, generated from their models.

Each document stands alone: what the others define and it needs is among its own ``$defs``. A
union is a ``oneOf`` whose branches differ in a required constant, so that any validator can tell
them apart. Each command names the definition of its reply, in the document of the replies, under
``x-soma-reply``. What a schema cannot say is left to the worker: that ids are distinct within
LOAD, that the shape and the payload of a Tensor agree, and that 1.0 is not an integer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from soma_core.models import filters, values
from soma_core.models import schema as schemas
from soma_core.models.field_descriptions import field_descriptions
from soma_core.models.values import VALUE_MODELS, Json, TensorData
from soma_core.protocol import commands, replies
from soma_core.protocol.commands import COMMANDS, Command, FilterSpec, SetState
from soma_core.protocol.fields import USER_DATA, VALUE_REFERENCE
from soma_core.protocol.replies import REPLIES, REPLY_TO, ErrorReply, Event, ForwardReply
from soma_core.protocol.versions import PROTOCOL_VERSION

REPLY = "x-soma-reply"
"""The keyword of a command's definition that names the definition of its reply."""

JsonSchema = dict[str, Any]
T = TypeVar("T")

_RESOLVABLE = "https://soma.invalid/value"  # pydantic leaves absolute references alone


def command_schema(models: Sequence[type[Command]] = COMMANDS) -> JsonSchema:
    """The schema of one message to a worker."""
    schema = _document(
        "command",
        "One command: what a host sends, as one line of JSON.",
        {"oneOf": _references(model.__name__ for model in models)},
        models,
    )
    for model in models:
        schema["$defs"][model.__name__][REPLY] = REPLY_TO.get(model, ForwardReply).__name__
    return schema


def reply_schema() -> JsonSchema:
    """The schema of one message from a worker: a reply, or an event before it.

    A reply does not repeat its command, so a successful one is any of those that there are.
    """
    branches = ["SuccessReply", ErrorReply.__name__, Event.__name__]
    schema = _document(
        "reply",
        "One message of a worker: the reply to a command, or an event before it.",
        {"oneOf": _references(branches)},
        (*REPLIES, ErrorReply, Event),
    )
    schema["$defs"]["SuccessReply"] = {
        "description": "The reply to a command that succeeded; which one, the host knows.",
        "type": "object",
        "properties": {"ok": {"const": True}},
        "required": ["ok"],
        "anyOf": _references(model.__name__ for model in REPLIES),
    }
    return _sorted_definitions(schema)


def value_schema() -> JsonSchema:
    """The schema of one tagged value."""
    return _document(
        "value",
        "One value, in the tagged form of JSON hosts.",
        {"oneOf": _references(model.__name__ for model in VALUE_MODELS)},
        (),
    )


SCHEMAS: dict[str, Callable[[], JsonSchema]] = {
    "commands": command_schema,
    "replies": reply_schema,
    "values": value_schema,
}
"""How to make each document, by what it describes."""


def _document(
    name: str, description: str, body: JsonSchema, models: Iterable[type[BaseModel]]
) -> JsonSchema:
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:soma:protocol:{PROTOCOL_VERSION}:{name}",
        "title": name.capitalize(),
        "description": description,
        **body,
        "$defs": _definitions((*models, *VALUE_MODELS)) | _user_data_definitions(),
    }
    return _sorted_definitions(document)


def _sorted_definitions(document: JsonSchema) -> JsonSchema:
    definitions = document.pop("$defs")
    return document | {"$defs": {name: definitions[name] for name in sorted(definitions)}}


def _references(names: Iterable[str]) -> list[JsonSchema]:
    return [{"$ref": f"#/$defs/{name}"} for name in names]


def _definitions(models: Iterable[type[BaseModel]]) -> dict[str, JsonSchema]:
    """The definitions of models and of all that they refer to, by class name."""
    models = list(models)
    inputs: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (model, "validation") for model in models
    ]
    documented = _models_of(commands, replies, filters, schemas, values)
    documented |= {model.__name__: model for model in models}
    _, schema = models_json_schema(inputs, schema_generator=_Generator)
    definitions: dict[str, JsonSchema] = {}
    for name, definition in schema["$defs"].items():
        described = _described(definition, documented.get(name))
        definitions[name] = _require_constants(_map_objects(described, _simplify))
    for model, rule in _RULES.items():
        if model.__name__ in definitions:
            definitions[model.__name__] = _with_rule(definitions[model.__name__], rule)
    if Json.__name__ in definitions:
        definitions[Json.__name__]["properties"]["data"] = _DATA
    return definitions


def _models_of(*modules: ModuleType) -> dict[str, type[BaseModel]]:
    return {
        name: member
        for module in modules
        for name, member in vars(module).items()
        if isinstance(member, type) and issubclass(member, BaseModel)
    }


class _Generator(GenerateJsonSchema):
    """Leaves out the titles that repeat field names, and makes references to user data pass."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def generate_inner(self, schema: Any) -> JsonSchema:
        return _map_objects(super().generate_inner(schema), _make_resolvable)


def _make_resolvable(node: JsonSchema) -> JsonSchema:
    return node | {"$ref": _RESOLVABLE} if node.get("$ref") == VALUE_REFERENCE else node


def _map_objects(node: T, change: Callable[[JsonSchema], JsonSchema]) -> T:
    """Rebuild a schema with each object in it changed, the innermost first."""
    if isinstance(node, dict):
        return change({key: _map_objects(item, change) for key, item in node.items()})  # type: ignore[return-value]
    if isinstance(node, list):
        return [_map_objects(item, change) for item in node]  # type: ignore[return-value]
    return node


def _simplify(node: JsonSchema) -> JsonSchema:
    if node.get("default", ...) is None:
        del node["default"]  # an omitted state is not a null one, and elsewhere it says nothing
    if isinstance(node.get("description"), str):
        node["description"] = _plain(node["description"])
    alternatives = node.get("anyOf", [])
    if "items" in node and {"items": {}, "type": "array"} in alternatives:
        items = node.pop("items")
        node["anyOf"] = [{**one, "items": items} if "items" in one else one for one in alternatives]
    if {"$ref": _RESOLVABLE} not in alternatives:
        return node
    name = "Data" if True in alternatives else "Binary"
    reference = {"$ref": f"#/$defs/{name}"}
    if node["description"] == USER_DATA[name]:
        return reference
    return reference | {"description": node["description"]}


def _plain(docstring: str) -> str:
    """A docstring without the markup of Sphinx."""
    return re.sub(r":\w+:(`\w+`)", r"\1", docstring).replace("``", "`")


def _described(definition: JsonSchema, model: type[BaseModel] | None) -> JsonSchema:
    """Give properties what the docstrings of their model say about them."""
    text: str = definition.get("description", "")
    if text:
        definition["description"] = text.partition("\n\nAttributes:\n")[0]
    described = {} if model is None else field_descriptions(model)
    for name, field in definition.get("properties", {}).items():
        if name in described:
            field["description"] = described[name]
    return definition


def _require_constants(definition: JsonSchema) -> JsonSchema:
    """Make the constants required that the models fill in but a message must have."""
    properties = definition.get("properties", {})
    constants = [name for name, field in properties.items() if "const" in field]
    for name in constants:
        properties[name].pop("default", None)
    required = dict.fromkeys([*constants, *definition.get("required", ())])
    return definition | ({"required": list(required)} if required else {})


def _with_rule(definition: JsonSchema, rule: JsonSchema) -> JsonSchema:
    """A definition with the alternatives of a rule, each written out whole.

    Most programs that make types of a schema look at the alternatives alone.
    """
    ((keyword, shapes),) = rule.items()
    return definition | {keyword: [_whole(definition, shape) for shape in shapes]}


def _whole(definition: JsonSchema, shape: JsonSchema) -> JsonSchema:
    properties = dict(definition["properties"])
    for name, own in shape.get("properties", {}).items():
        said = {key: properties[name][key] for key in ("description",) if key in properties[name]}
        properties[name] = own | said
    return {
        "type": "object",
        "properties": properties,
        "required": [*dict.fromkeys([*definition.get("required", ()), *shape["required"]])],
        "additionalProperties": False,
    }


def _exactly_one(**shapes: JsonSchema) -> JsonSchema:
    """A rule: exactly one of these properties is there; null is absent.

    Args:
        shapes: For each property, what holds when it is the one: its type, and what else.
    """

    def absent(name: str) -> JsonSchema:
        return {other: {"type": "null"} for other in shapes if other != name}

    return {
        "oneOf": [
            {
                "required": [name, *shape.get("required", ())],
                "properties": {**absent(name), **shape["properties"]},
            }
            for name, shape in shapes.items()
        ]
    }


_DATA: JsonSchema = {"$ref": "#/$defs/Data"}
_BINARY: JsonSchema = {"$ref": "#/$defs/Binary"}
_TEXT: JsonSchema = {"type": "string"}
_NUMBERS: JsonSchema = {"type": "array", "items": {"type": ["number", "boolean", "null"]}}
_NO_CONFIG: JsonSchema = {"type": "object", "maxProperties": 0}
_DTYPE: JsonSchema = {"type": ["string", "array"]}

_RULES: dict[type[BaseModel], JsonSchema] = {
    FilterSpec: _exactly_one(
        pickle_b64={"properties": {"pickle_b64": _BINARY, "config": _NO_CONFIG}},
        filter={"properties": {"filter": _TEXT}},
    ),
    SetState: {"anyOf": [{"required": ["state_b64"]}, {"required": ["fit_state"]}]},
    TensorData: _exactly_one(
        values={"properties": {"values": _NUMBERS}},
        b64={"properties": {"b64": _TEXT, "dtype": _DTYPE}, "required": ["dtype"]},
    ),
}
"""What the models check between fields, said once more for those who have only the schema."""

_USER_DATA_DEFINITIONS: dict[str, JsonSchema] = {
    "Data": {
        "description": USER_DATA["Data"],
        "anyOf": [
            {"type": ["null", "boolean", "number", "string"]},
            *_references(["Value", "SpecialValue"]),
            {"type": "array", "items": _DATA},
            {"type": "object", "additionalProperties": _DATA},
        ],
    },
    "Binary": {
        "description": USER_DATA["Binary"],
        "anyOf": [{"type": "string", "contentEncoding": "base64"}, *_references(["Bytes"])],
    },
}
"""Any JSON fits ``Data``: its union is for those who make types of a schema."""


def _user_data_definitions() -> dict[str, JsonSchema]:
    return _USER_DATA_DEFINITIONS | {
        "Value": {
            "description": "One value in tagged form.",
            "oneOf": _references(model.__name__ for model in VALUE_MODELS),
        },
        "SpecialValue": {
            "description": "What JSON has no form for, and no Value either.",
            "oneOf": [
                _special("float", "A float that is not finite.", value=_NOT_FINITE),
                _special("int", "An integer of very many digits.", value=_HEXADECIMAL),
                _special("dict", "A dict that looks like a tag.", items=_PAIRS),
                _special("tuple", "A tuple.", items={"type": "array", "items": _DATA}),
                _special("scalar", "A numpy scalar.", array=_TENSOR),
                _CODEC,
                _PICKLE,
            ],
        },
    }


def _special(tag: str, description: str, **content: JsonSchema) -> JsonSchema:
    return {
        "title": f"Special{tag.capitalize()}",
        "description": description,
        "type": "object",
        "properties": {"$soma": {"const": tag}, **content},
        "required": ["$soma", *content],
    }


_NOT_FINITE: JsonSchema = {"enum": ["nan", "inf", "-inf"]}
_HEXADECIMAL: JsonSchema = {"type": "string", "pattern": "^-?0x[0-9a-f]+$"}
_PAIRS: JsonSchema = {
    "type": "array",
    "items": {
        "type": "array",
        "prefixItems": [_TEXT, _DATA],
        "minItems": 2,
        "maxItems": 2,
    },
}
_TENSOR: JsonSchema = {"$ref": "#/$defs/Tensor"}
_CODEC: JsonSchema = {
    "title": "SpecialCodec",
    "description": "A value of a type that a plugin adds; what is in it, its codec says.",
    "type": "object",
    "properties": {
        "$soma": {"const": "codec"},
        "codec": {"description": "The name of the codec; HELLO lists them.", "type": "string"},
        "distribution": {"description": "What to install for it.", "type": "string"},
        "data": _DATA,
        "buffers": {"type": "array", "items": _BINARY},
    },
    "required": ["$soma", "codec"],
    "additionalProperties": False,
}
_PICKLE: JsonSchema = {
    "title": "Pickle",
    "description": "A pickled Python object, as the lines dialect writes it.",
    "type": "object",
    "properties": {"__pickle_b64__": {"type": "string", "contentEncoding": "base64"}},
    "required": ["__pickle_b64__"],
    "additionalProperties": False,
}
