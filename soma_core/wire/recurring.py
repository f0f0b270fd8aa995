"""Recurring headers: what a header says is read and validated once, then known by its text.

A program calls in a loop, and header after header is the same text but for its id, while what
differs is in the buffers. Our own messages have the id at the end. JSON is read from left to
right, so what stands before a last ``,"id":`` means the same whichever number follows: the fields
of a header that was seen before need neither parsing nor validation, only arrays over the new
buffers. The same holds for a loss that stands right before the id, which no step of training
repeats. A header that is not written in this way is read like any other.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from soma_core.wire import arrays
from soma_core.wire.json_text import write_json

__all__ = [
    "WITH_ID",
    "WITH_LOSS_AND_ID",
    "Fields",
    "RecurringHeaders",
    "text_before_id",
    "text_before_loss",
]

Fields = dict[str, Any]
T = TypeVar("T")

WITH_ID = b"%b%d}"
"""``WITH_ID % (before, message_id)`` is the header of which :func:`text_before_id` gave the
beginning."""
WITH_LOSS_AND_ID = b'%b%b,"id":%d}'
"""Likewise for :func:`text_before_loss`, with the text of the loss in the middle."""

_ID = b',"id":'
_LOSS = b',"loss":'
_FLOAT = re.compile(rb"-?(?:0|[1-9][0-9]*)\.[0-9]+(?:e[+-]?[0-9]+)?")
_MOST_KNOWN = 256
_LONGEST = 1024  # bytes; a longer header holds data, and data does not recur
_LONGEST_KNOWN = _LONGEST + 64  # its like may have a longer id and a longer loss
_CONSTANT = frozenset({str, int, float, bool, type(None)})
_TEXT = frozenset({str})
_TENSOR_KEYS = frozenset({"type", "data"})
_PLAIN_KEYS = frozenset({"buffer", "dtype", "shape"})


def text_before_id(fields: Fields) -> bytes:
    """The text of a header with these fields, none of which is the id, up to the id."""
    return write_json(fields)[:-1] + _ID


def text_before_loss(fields: Fields) -> bytes:
    """The text of a header with these fields, none of which is the loss or the id, up to the
    loss."""
    return write_json(fields)[:-1] + _LOSS


class _BeforeLoss(NamedTuple):
    """What stands before the loss, in a header whose loss stands right before the id."""

    text: bytes


_Key = bytes | _BeforeLoss
"""What is the same in all headers of a kind: what stands before the id, or before the loss."""


def _part_at_loss(before_id: bytes) -> tuple[_BeforeLoss, bytes] | None:
    """What stands before the loss, and the loss; None if no fraction stands before the id."""
    before, _, loss = before_id.rpartition(_LOSS)
    return (_BeforeLoss(before), loss) if before and _FLOAT.fullmatch(loss) else None


def _key(before_id: bytes) -> _Key:
    parts = _part_at_loss(before_id)
    return before_id if parts is None else parts[0]


class _Array(NamedTuple):
    """A field that is an array as it lies in a buffer, or a torch tensor over one."""

    name: str
    buffer: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_torch: bool


class _Known(NamedTuple, Generic[T]):
    """What is the same in all messages of a kind, and how to make the rest."""

    what: T
    constants: Fields
    containers: tuple[str, ...]
    arrays: tuple[_Array, ...]


class RecurringHeaders(Generic[T]):
    """The headers that came lately, and what they said.

    What ``learn`` calls *what* is whatever is the same for all messages with such a header: the
    model of a command, say.
    """

    def __init__(self) -> None:
        self._known: dict[_Key, _Known[T] | None] = {}
        self._never: set[_Key] = set()

    def recognise(self, header: bytes, buffers: Sequence[Any]) -> tuple[T, Fields] | None:
        """What a header is, and its fields with arrays over the buffers; None if it is not known.

        The fields are the caller's: no other message has an object of them.
        """
        if len(header) > _LONGEST_KNOWN:
            return None
        before, _, after = header.rpartition(_ID)
        known = self._known.get(before)
        loss = None
        if known is None:
            parts = _part_at_loss(before)
            if parts is None:
                return None
            key, loss = parts
            known = self._known.get(key)
            if known is None:
                return None
        what, constants, containers, in_buffers = known
        fields = constants.copy()
        if loss is not None:
            fields["loss"] = float(loss)
        try:
            fields["id"] = message_id = int(after[:-1])
            for name, buffer, dtype, shape, is_torch in in_buffers:
                array = np.frombuffer(buffers[buffer], dtype)
                if array.shape != shape:
                    array = array.reshape(shape)
                fields[name] = sys.modules["torch"].from_numpy(array) if is_torch else array
        except (IndexError, ValueError):  # it lies; whoever reads it field by field says how
            return None
        if after != b"%d}" % message_id:  # "+7", " 7" and "07" are numbers to int, not to JSON
            return None
        for name in containers:
            fields[name] = fields[name].copy()
        return what, fields

    def recurs(self, header: bytes) -> bool:
        """Whether a header like this one came before, and may be learned."""
        before, _, after = header.rpartition(_ID)
        if not before or len(header) > _LONGEST or not after[:-1].isdigit():
            return False
        key = _key(before)
        if key in self._known:
            return key not in self._never
        if len(self._known) >= _MOST_KNOWN:
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._never.discard(oldest)
        self._known[key] = None
        return False

    def learn(self, header: bytes, wire: Fields, fields: Fields, what: T) -> None:
        """Note what a header says that was read and validated, if all of it recurs.

        Whether it does is said by its text: it is not tried again.

        Args:
            header: Its text; ``recurs`` said yes.
            wire: Its fields as they came.
            fields: Its fields as they were read, those with a default included.
            what: What it is.
        """
        key = _key(header.rpartition(_ID)[0])
        self._never.add(key)
        apart = {"id", "loss"} if isinstance(key, _BeforeLoss) else {"id"}
        constants: Fields = {}
        containers, in_buffers = [], []
        for name, value in fields.items():
            came = wire.get(name)
            array = _array(name, came)
            if name in apart:
                continue
            if array is not None and (value is came or _is_array(value)):
                in_buffers.append(array)
            elif _is_constant(value, came, absent=name not in wire):
                constants[name] = value
            elif _is_container(value) and value == came:
                constants[name] = value.copy()  # this message has the value itself
                containers.append(name)
            else:
                return
        self._never.remove(key)
        self._known[key] = _Known(what, constants, tuple(containers), tuple(in_buffers))


def _is_container(value: Any) -> bool:
    """Whether it is a list of texts, or an empty dict: a message has a copy of its own."""
    if type(value) is dict:
        return not value
    return type(value) is list and set(map(type, value)) <= _TEXT


def _is_constant(value: Any, came: Any, *, absent: bool) -> bool:
    kind = type(value)
    return kind in _CONSTANT and (absent or (kind is type(came) and value == came))


def _is_array(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return type(value) is np.ndarray or (torch is not None and type(value) is torch.Tensor)


def _array(name: str, wire: Any) -> _Array | None:
    """How to lay out a field that came as our encoder writes a plain array; None if it did not."""
    if type(wire) is not dict or wire.keys() != _TENSOR_KEYS or wire["type"] != "Tensor":
        return None
    data = wire["data"]
    if type(data) is not dict or data.keys() - {"container"} != _PLAIN_KEYS:
        return None
    index, dtype, shape = data["buffer"], arrays.BY_NAME.get(str(data["dtype"])), data["shape"]
    if dtype is None or type(index) is not int or index < 0 or type(shape) is not list:
        return None
    is_torch = "container" in data
    if is_torch and not (
        data["container"] == "torch"
        and data["dtype"] in arrays.IN_TORCH_TOO
        and "torch" in sys.modules
    ):
        return None
    if not all(type(length) is int and length >= 0 for length in shape):
        return None
    return _Array(name, index, dtype, tuple(shape), is_torch)
