"""Fields of a message that carry the user's data, and how each kind crosses the wire.

Validation reads them with the :class:`~soma_core.wire.codec.Decoder` given as pydantic's
context, so that a validated command holds Python objects. Without a context they stay in wire
form, which is what validating a message without running it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, PlainValidator, ValidationInfo, WithJsonSchema

from soma_core.errors import ProtocolError
from soma_core.wire.codec import Decoder, Encoder

__all__ = [
    "Binaries",
    "Binary",
    "Carried",
    "Data",
    "Number",
    "Numbers",
    "State",
    "States",
    "carried_fields",
    "encode_fields",
]


class Carried(NamedTuple):
    """Marks a field's type with how its content is encoded when the message is sent."""

    encode: Callable[[Encoder, Any], Any]


def _reader(read: Callable[[Decoder, Any], Any]) -> PlainValidator:
    def validate(wire: Any, info: ValidationInfo) -> Any:
        if info.context is None:
            return wire
        try:
            return read(info.context, wire)
        except ProtocolError as error:
            if info.field_name:
                error.args = (f"{info.field_name}: {error}",)
            raise

    return PlainValidator(validate)


def _mapping(read: Callable[[Decoder, Any], Any]) -> Callable[[Decoder, Any], dict[str, Any]]:
    def read_each(decoder: Decoder, wire: Any) -> dict[str, Any]:
        return {key: read(decoder, item) for key, item in _require_object(wire).items()}

    return read_each


def _require_object(wire: Any) -> dict[str, Any]:
    if wire is None:
        return {}
    if not isinstance(wire, dict):
        raise ValueError(f"an object with node ids as keys is expected, got {type(wire).__name__}")
    return wire


def _encode_binary(encoder: Encoder, content: Any) -> Any:
    return encoder.binary(content)


def _encode_numbers(encoder: Encoder, numbers: list[float]) -> list[Any]:
    """An array, however long it is: who reads it need not know how lists are packed."""
    return [encoder.encode(number) for number in numbers]


def _encode_each(encode: Callable[[Encoder, Any], Any]) -> Carried:
    def encode_mapping(encoder: Encoder, content: dict[str, Any]) -> dict[str, Any]:
        return {key: encode(encoder, item) for key, item in content.items()}

    return Carried(encode_mapping)


_VALUE_SCHEMA = {
    "title": "Data",
    "description": "Any JSON value, or a tagged value, or lists and objects that hold some.",
    "anyOf": [{"$ref": "value.schema.json"}, True],
}
_BINARY_SCHEMA = {
    "title": "Binary",
    "description": "Bytes: base64, or a Bytes value.",
    "anyOf": [{"type": "string", "contentEncoding": "base64"}, {"$ref": "value.schema.json"}],
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


Data = Annotated[
    Any, _reader(Decoder.decode), Carried(Encoder.encode), WithJsonSchema(_VALUE_SCHEMA)
]
State = Annotated[
    Any, _reader(Decoder.state), Carried(Encoder.encode), WithJsonSchema(_VALUE_SCHEMA)
]
States = Annotated[
    Any,
    _reader(_mapping(Decoder.state)),
    _encode_each(Encoder.encode),
    WithJsonSchema(_mapping_schema(_VALUE_SCHEMA)),
]
Binary = Annotated[
    Any, _reader(Decoder.binary), Carried(_encode_binary), WithJsonSchema(_BINARY_SCHEMA)
]
Binaries = Annotated[
    Any,
    _reader(_mapping(Decoder.binary)),
    _encode_each(_encode_binary),
    WithJsonSchema(_mapping_schema(_BINARY_SCHEMA)),
]
Number = Annotated[
    Any, _reader(Decoder.decode), Carried(Encoder.encode), WithJsonSchema(_NUMBER_SCHEMA)
]
Numbers = Annotated[
    Any,
    _reader(Decoder.decode),
    Carried(_encode_numbers),
    WithJsonSchema({"type": "array", "items": _NUMBER_SCHEMA}),
]


@cache
def carried_fields(model: type[BaseModel]) -> tuple[tuple[str, Carried], ...]:
    """The fields of a message type that carry the user's data."""
    return tuple(
        (name, mark)
        for name, field in model.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Carried)
    )


def encode_fields(message: BaseModel, encoder: Encoder) -> dict[str, Any]:
    """The fields that were set, with user data in wire form; models stay as they are."""
    fields = message.__dict__.copy()
    for name in fields.keys() - message.__pydantic_fields_set__:
        del fields[name]
    for name, mark in carried_fields(type(message)):
        if name in fields:
            fields[name] = mark.encode(encoder, fields[name])
    return fields
