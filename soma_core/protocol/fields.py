"""Fields of a message that carry the user's data or bytes, and how a dialect finds them.

A model is validated with such data as they came; what they stand for is made of them afterwards, so
that nothing of a refused message is unpickled.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from functools import cache
from itertools import compress
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, PlainValidator, WithJsonSchema


class Carried(StrEnum):
    """What a field holds; marks its type."""

    DATA = "any object"
    STATE = "a state"
    STATES = "states by node id"
    BINARY = "bytes"
    BINARIES = "bytes by node id"
    NUMBERS = "floats"


def _read_binary(content: Any) -> Any:
    if isinstance(content, bytes | bytearray | memoryview):
        return content
    if isinstance(content, str):
        return _from_b64(content)
    tagged = isinstance(content, Mapping) and content.keys() == {"type", "data"}
    if tagged and content["type"] == "Bytes":
        return _from_tag(content["data"])
    raise ValueError("expected base64 or a Bytes value")


def _from_b64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"not valid base64: {error}") from None


def _from_tag(data: Any) -> bytes:
    if isinstance(data, Mapping) and data.keys() == {"b64"} and isinstance(data["b64"], str):
        return _from_b64(data["b64"])
    if isinstance(data, list):
        with suppress(TypeError, ValueError):
            return bytes(data)
    raise ValueError("the data of Bytes is a list of numbers from 0 to 255")


def _read_binaries(content: Any) -> dict[str, Any]:
    return {key: _read_binary(item) for key, item in _require_object(content).items()}


def _require_object(content: Any) -> dict[str, Any]:
    if content is None:
        return {}
    if isinstance(content, dict):
        return content
    raise ValueError(f"an object with node ids as keys is expected, got {type(content).__name__}")


VALUE_REFERENCE = "value.schema.json"
"""What the schemas of fields refer to where they carry user data."""

USER_DATA = {
    "Data": "Any JSON value, or a tagged value, or lists and objects that hold some.",
    "Binary": "Bytes: base64, or a Bytes value.",
}
"""The kinds of user data that have a schema, and what it says of them."""

_VALUE_SCHEMA = {
    "title": "Data",
    "description": USER_DATA["Data"],
    "anyOf": [{"$ref": VALUE_REFERENCE}, True],
}
_BINARY_SCHEMA = {
    "title": "Binary",
    "description": USER_DATA["Binary"],
    "anyOf": [{"type": "string", "contentEncoding": "base64"}, {"$ref": VALUE_REFERENCE}],
}
_NUMBER_SCHEMA = {
    "title": "Number",
    "description": "A number, null where there is none, or the tag of one that is not finite.",
    "anyOf": [
        {"type": ["number", "null"]},
        {
            "type": "object",
            "properties": {"$soma": {"const": "float"}, "value": {"enum": ["nan", "inf", "-inf"]}},
            "required": ["$soma", "value"],
            "additionalProperties": False,
        },
    ],
}


def _mapping_schema(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": items}


Data = Annotated[Any, Carried.DATA, WithJsonSchema(_VALUE_SCHEMA)]
State = Annotated[Any, Carried.STATE, WithJsonSchema(_VALUE_SCHEMA)]
States = Annotated[
    Any,
    BeforeValidator(_require_object),
    Carried.STATES,
    WithJsonSchema(_mapping_schema(_VALUE_SCHEMA)),
]
Binary = Annotated[
    Any, PlainValidator(_read_binary), Carried.BINARY, WithJsonSchema(_BINARY_SCHEMA)
]
Binaries = Annotated[
    Any,
    PlainValidator(_read_binaries),
    Carried.BINARIES,
    WithJsonSchema(_mapping_schema(_BINARY_SCHEMA)),
]
Number = Annotated[Any, Carried.DATA, WithJsonSchema(_NUMBER_SCHEMA)]
Numbers = Annotated[
    Any, Carried.NUMBERS, WithJsonSchema({"type": "array", "items": _NUMBER_SCHEMA})
]


@cache
def carried_fields(model: type[BaseModel]) -> tuple[tuple[str, Carried], ...]:
    """The fields of a message type that carry data, and what each holds."""
    return tuple(
        (name, mark)
        for name, field in model.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Carried)
    )


def set_fields(message: BaseModel) -> dict[str, Any]:
    """The fields of a message that were set, as they are."""
    fields = message.__dict__
    was_set = map(message.__pydantic_fields_set__.__contains__, fields)
    return dict(compress(fields.items(), was_set))
