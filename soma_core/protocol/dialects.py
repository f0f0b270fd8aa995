"""The two dialects of the protocol: how each reads a message into a model, and writes one.

Reading is validating, then decoding: what a message carries is only unpickled once its model has
accepted it.
"""

from __future__ import annotations

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Any

from pydantic import BaseModel

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.protocol.fields import Carried, carried_fields, set_fields
from soma_core.protocol.replies import ErrorReply, Reply
from soma_core.wire.json_text import read_json, write_json
from soma_core.wire.line_codec import LineDecoder, LineEncoder
from soma_core.wire.message import Dialect, Message, as_message
from soma_core.wire.packing import Binary, Packing
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import Unpacking, unpack_map

BYTES = frozenset({Carried.BINARY, Carried.BINARIES})
"""What validation reads already."""

_OPEN = frozenset({"Any", "list", "dict", "tuple"})
_STATES = frozenset({Carried.STATE, Carried.STATES})

Validate = Callable[[dict[str, Any]], Any]
"""Makes a validated model of the fields of a message."""


class DialectCodec(ABC):
    """Reads and writes the messages of one dialect."""

    def __init__(self, pickles: Pickles) -> None:
        self._pickles = pickles

    @abstractmethod
    def read(self, message: Message, validate: Validate) -> Any:
        """The model of a message, with the objects that its data stand for.

        Args:
            message: The message.
            validate: Makes a model of its fields, as they came; what it raises, this raises.

        Raises:
            ProtocolError: ``malformed``; or ``invalid_command`` or ``pickle_refused``: its data
                cannot be decoded.
        """

    @abstractmethod
    def write(self, fields: dict[str, Any], model: type[BaseModel]) -> Message:
        """A message of fields as Python objects, which it takes over.

        Raises:
            ProtocolError: Something in it cannot be sent.
        """

    def write_model(self, message: BaseModel, message_id: str | int | None = None) -> Message:
        """A message of a model: the fields that were set, and the id if there is one."""
        fields = set_fields(message)
        if message_id is not None:
            fields["id"] = message_id
        return self.write(fields, type(message))

    def write_reply(self, reply: Reply | ErrorReply, message_id: str | int | None) -> Message:
        """The message of a reply: whether it succeeded, and the fields that were set."""
        fields = {"ok": reply.ok, **set_fields(reply)}
        if message_id is not None:
            fields["id"] = message_id
        return self.write(fields, type(reply))


class FrameCodec(DialectCodec):
    """Frames: a MessagePack map and buffers."""

    def read(self, message: Message, validate: Validate) -> Any:
        header, buffers, _ = message
        unpacking = Unpacking(buffers, self._pickles, resolve=False)
        model = validate(unpacking.map(header))
        if unpacking.unresolved and isinstance(model, BaseModel):
            return self._resolved(model, message, validate)
        return model

    def _resolved(self, model: BaseModel, message: Message, validate: Validate) -> Any:
        """A message once more, now that it is valid, with the objects in it."""
        carried = carried_fields(type(model))
        opaque = self._pickles.opaque_states and any(kind in _STATES for _, kind in carried)
        unpacking = Unpacking(message.buffers, self._pickles, resolve=True, opaque=opaque)
        resolved = unpacking.map(message.header)
        for name, kind in carried:
            if kind not in BYTES and name in resolved:
                model.__dict__[name] = resolved[name]
        if not _open_fields(type(model)).isdisjoint(resolved):
            return validate(resolved)
        return model

    def write(self, fields: dict[str, Any], model: type[BaseModel]) -> Message:
        for name, replace in _replaced_in_frames(model):
            if name in fields:
                fields[name] = replace(fields[name])
        packing = Packing(self._pickles)
        header = packing.run(fields)
        return as_message((header, packing.buffers, Dialect.FRAME))


class LineCodec(DialectCodec):
    """Lines: one JSON object each.

    Args:
        pickles: Whether and how objects that are not data travel.
        dense: Whether arrays and bytes are written as base64, and not as numbers.
    """

    def __init__(self, pickles: Pickles, *, dense: bool = False) -> None:
        super().__init__(pickles)
        self._dense = dense
        self._decoder = LineDecoder(pickles=pickles)

    def read(self, message: Message, validate: Validate) -> Any:
        model = validate(read_fields(message))
        if not isinstance(model, BaseModel):
            return model
        given, fields = model.__pydantic_fields_set__, model.__dict__
        for name, kind in carried_fields(type(model)):
            if kind not in BYTES and name in given:
                try:
                    fields[name] = _DECODE[kind](self._decoder, fields[name])
                except ProtocolError as error:
                    error.args = (f"{name}: {error}",)
                    raise
        return model

    def write(self, fields: dict[str, Any], model: type[BaseModel]) -> Message:
        as_lists = getattr(model, "tensors_as_lists", False)
        encoder = LineEncoder(pickles=self._pickles, tensors_as_lists=as_lists, dense=self._dense)
        for name, kind in carried_fields(model):
            if name in fields:
                fields[name] = _ENCODE[kind](encoder, fields[name])
        return as_message((write_json(fields), (), Dialect.LINE))


def codecs_for(pickles: Pickles) -> dict[Dialect, DialectCodec]:
    """A codec for each dialect."""
    return {Dialect.LINE: LineCodec(pickles), Dialect.FRAME: FrameCodec(pickles)}


def read_fields(message: Message) -> dict[str, Any]:
    """The fields of a message without what its data stand for: to look at, not to run.

    Raises:
        ProtocolError: ``malformed``: it has no fields.
    """
    if message.dialect is Dialect.FRAME:
        return unpack_map(message.header)
    fields = read_json(message.header)
    if isinstance(fields, dict):
        return fields
    raise ProtocolError(
        ErrorCode.MALFORMED,
        f"a message is a JSON object with a cmd, got {type(fields).__name__}: "
        f"{reprlib.repr(fields)}",
    )


def _as_binaries(content: dict[str, Any]) -> dict[str, Binary]:
    return {key: Binary(item) for key, item in content.items()}


def _as_plain(content: Any) -> Any:
    """Models and enums in a field, as plain data."""
    if isinstance(content, list):
        return [_as_plain(item) for item in content]
    if isinstance(content, dict):
        return {key: _as_plain(item) for key, item in content.items()}
    if isinstance(content, Enum):
        return content.value
    if not isinstance(content, BaseModel):
        return content
    marked = dict(carried_fields(type(content)))
    if not marked:
        return content.model_dump(mode="json")
    fields = set_fields(content)
    return {k: Binary(v) if marked.get(k) is Carried.BINARY else v for k, v in fields.items()}


@cache
def _replaced_in_frames(model: type[BaseModel]) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """The fields of a message type that are replaced before they are packed."""
    carried = dict(carried_fields(model))
    replaced = {Carried.BINARY: Binary, Carried.BINARIES: _as_binaries}
    found = [(name, replaced[kind]) for name, kind in carried.items() if kind in replaced]
    for name, field in model.model_fields.items():
        if name not in carried and _bases_in(field.annotation) & {"BaseModel", "Enum"}:
            found.append((name, _as_plain))
    return tuple(found)


@cache
def _open_fields(model: type[BaseModel]) -> frozenset[str]:
    """The fields that are not marked as ones that carry data, and may hold any object."""
    fields = model.model_fields.items()
    found = {name for name, field in fields if _OPEN & _bases_in(field.annotation)}
    return frozenset(found.difference(dict(carried_fields(model))))


def _bases_in(annotation: Any) -> set[str]:
    """The names of the classes that an annotation mentions, with their bases."""
    inner = [name for part in getattr(annotation, "__args__", ()) for name in _bases_in(part)]
    return {*inner, *(base.__name__ for base in getattr(annotation, "__mro__", ()))}


def decode_field(decoder: LineDecoder, kind: Carried, content: Any) -> Any:
    """The objects that a field of a line stands for.

    Raises:
        ProtocolError: It is not well formed, or a pickle that is refused.
    """
    return _DECODE[kind](decoder, content)


def _decode_states(decoder: LineDecoder, content: dict[str, Any]) -> dict[str, Any]:
    return {key: decoder.state(item) for key, item in content.items()}


_DECODE: dict[Carried, Callable[[LineDecoder, Any], Any]] = {
    Carried.DATA: LineDecoder.decode,
    Carried.NUMBERS: LineDecoder.decode,
    Carried.STATE: LineDecoder.state,
    Carried.STATES: _decode_states,
}


def _encode_each(encoder: LineEncoder, content: dict[str, Any]) -> dict[str, Any]:
    return {key: encoder.encode(item) for key, item in content.items()}


def _encode_binaries(encoder: LineEncoder, content: dict[str, Any]) -> dict[str, Any]:
    return {key: encoder.binary(item) for key, item in content.items()}


_ENCODE: dict[Carried, Callable[[LineEncoder, Any], Any]] = {
    Carried.DATA: LineEncoder.encode,
    Carried.NUMBERS: LineEncoder.encode,
    Carried.STATE: LineEncoder.encode,
    Carried.STATES: _encode_each,
    Carried.BINARY: LineEncoder.binary,
    Carried.BINARIES: _encode_binaries,
}
