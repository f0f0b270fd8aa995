"""Mutants: messages of both dialects made from valid ones, each of which must get one reply.

Each is one message by construction, so that the replies can be counted: a mutated line holds no
newline and is not blank, and a mutated frame declares the length that it has. Pickles are left
whole, since running what they hold is what they are for.
"""

from __future__ import annotations

import base64
import json
import random
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any
from zlib import crc32

import cloudpickle
import numpy as np
from ormsgpack import Ext, packb

from soma_core.testing.filters import Echo
from soma_core.wire import frames
from soma_core.wire.json_text import write_json
from soma_core.wire.line_codec import LineEncoder
from soma_core.wire.message import Dialect
from soma_core.wire.packing import pack
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import unpack_map

_PICKLE = b"@pickle@"
_LONG_TRAINING = re.compile(rb'"epochs":\s*"?[\d.eE+-]{4,}')
_LONG_TRAINING_IN_A_MAP = re.compile(rb"epochs[\xca-\xd3\x20-\x7f]")
_BLANK = b" \t\r\n\x0b\x0c\xef\xbb\xbf"
_PREAMBLE = struct.Struct("<5sBHIIQ")
_ENTRY = struct.Struct("<IIQQ")
_NUMBERS = [0, 1, 2, 3, 4, 23, 24, 25, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
_LARGE_NUMBERS = [*_NUMBERS, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
_VALUES: list[Any] = [
    None, True, 0, -1, 1.5, 10**30, -(2**63), "", "x", "\x00", "ÿ", [], [[]], [None], {}, {"a": 1},
    float("nan"), float("inf"),
    {"type": "Tensor", "data": {"values": [1.0], "shape": [2]}},
    {"type": "Tensor", "data": {"values": [], "shape": [0, 1 << 62], "dtype": "float64"}},
    {"type": "Tensor", "data": {"b64": "AAAA", "shape": [1], "dtype": "float64"}},
    {"type": "Tensor", "data": {"buffer": 0, "shape": [-1], "dtype": "object"}},
    {"type": "Tensor", "data": {"buffer": 99, "shape": [], "dtype": "V7"}},
    {"type": "Empty"}, {"type": "Empty", "data": 1}, {"type": "Text", "data": 1},
    {"type": "Bytes", "data": [256]}, {"type": "Json", "data": {"type": "Bytes", "data": [1]}},
    {"type": "Object", "data": [1, 2]}, {"__pickle_b64__": "!"}, {"$soma": "float", "value": "x"},
    {"$soma": "dict", "items": [[1]]}, {"$soma": None},
]  # fmt: skip
_EXTENSIONS = [
    Ext(1, packb([0, "float64", [2]])), Ext(1, packb([99, "object", [-1]])), Ext(1, b""),
    Ext(2, packb([0, "bfloat16", [1 << 40]])), Ext(3, packb([1, [2]])), Ext(4, packb([[1], 2])),
    Ext(5, packb(["<f8", b"12345678"])), Ext(7, b""), Ext(9, packb([[1], [2]])), Ext(10, b"\xff"),
    Ext(12, packb(["datetime", [1]])), Ext(13, packb(["no", "such", None, [0]])), Ext(14, b"\xc0"),
    Ext(15, packb([[2], [1]])), Ext(16, packb([["a"], [1], [2]])), Ext(17, packb(["UUID", [1]])),
    Ext(18, packb([1 << 40, 0, []])), Ext(127, b"?"),
]  # fmt: skip
_SNIPPETS = [
    b"NaN", b"-Infinity", b"1e999", b"-0", b"00", b'"', b"\\", b"\\ud800", b"\\u0000", b"\xff",
    b"\xc3", b"\xed\xa0\x80", b"\x00", b"{", b"}", b"[", b"]", b",", b":", b"null", b"[" * 250,
    b'{"a":' * 250, b"9" * 400, b"\xef\xbb\xbf", b" ", b"\t", b"\r", b"\x93SOMA", b"//", b"'",
]  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A message that may be wrong in any way.

    Attributes:
        data: The bytes to send.
        dialect: The dialect in which it must be answered.
        closes: Whether the stream is over after its one reply, which is also why its sender
            must then close its side.
    """

    data: bytes
    dialect: Dialect
    closes: bool = False


def preparation() -> bytes:
    """A line that loads the nodes that the valid messages name."""
    specs = [{"id": name, "pickle_b64": _pickle().decode("ascii")} for name in ("a", "b")]
    return write_json({"cmd": "LOAD", "id": "prepare", "filters": specs}) + b"\n"


def _pickle() -> bytes:
    return base64.b64encode(cloudpickle.dumps(Echo()))


def _commands() -> list[dict[str, Any]]:
    """A valid command of every kind but SHUTDOWN; user data as Python objects."""
    data = {"x": np.arange(6.0).reshape(2, 3), "n": [1, None, "é"], "b": b"\x00\xff"}
    rows, state = np.arange(8, dtype="int32").reshape(4, 2), {"learned": [1.0, 2.0]}
    client = {"name": "mutant", "soma": "0", "python": "3.11", "cloudpickle": "3"}
    return [
        {"cmd": "HELLO", "protocol": 1, "client": client},
        {"cmd": "LOAD", "filters": [{"id": "c", "pickle_b64": _PICKLE.decode()}]},
        {"cmd": "LOAD", "filters": [{"id": "c", "filter": "absent", "config": {"k": 1}}]},
        {"cmd": "UNLOAD", "node_ids": ["b"]},
        {"cmd": "LIST", "meta": {"k": [1]}},
        {"cmd": "FIT", "node_id": "a", "data": rows, "y": [1, 0], "return_state": True},
        {"cmd": "FORWARD", "node_id": "a", "data": data},
        {"cmd": "FORWARD", "node_id": "a", "data": 1.5, "state": state, "id": 7},
        {"cmd": "CALL_METHOD", "node_id": "a", "method": "score", "data": rows, "y": [1, 0]},
        {"cmd": "COMPOSITE_FORWARD", "node_ids": ["a", "b"], "data": rows, "states": {"a": state}},
        {"cmd": "COMPOSITE_FIT", "node_ids": ["a", "b"], "data": rows, "y": rows, "events": True},
        {"cmd": "BATCHED_FIT", "node_ids": ["a"], "data": rows, "batch_size": 2, "epochs": 2},
        {"cmd": "GET_STATE", "node_id": "a", "format": "value", "id": "s"},
        {"cmd": "SET_STATE", "node_id": "a", "state_b64": "e30=", "format": "value"},
        {"cmd": "GET_GRADIENTS", "node_id": "a"},
        {"cmd": "APPLY_GRADIENTS", "node_id": "a", "gradients_b64": "AAAA"},
        {"cmd": "PING", "id": 1},
    ]


_USER_DATA = ("data", "y", "state", "states")


def _encoded(command: dict[str, Any], encoder: Any) -> bytes:
    fields = {
        name: encoder.encode(value) if name in _USER_DATA else value
        for name, value in command.items()
    }
    if "states" in command:
        fields["states"] = {key: encoder.encode(value) for key, value in command["states"].items()}
    return write_json(fields)


class Mutator:
    """Makes mutants, the same ones for the same seed.

    Args:
        seed: Of its random numbers.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - to be repeatable, not secret
        self._pickle = _pickle()
        self._lines: list[bytes] = []
        self._frames: list[tuple[bytes, list[bytes]]] = []
        for command in _commands():
            self._lines.append(_encoded(command, LineEncoder(pickles=Pickles(allowed=False))))
            header, buffers = pack(self._with_the_pickle(command), Pickles(allowed=False))
            self._frames.append((header, [bytes(memoryview(buffer)) for buffer in buffers]))

    def _with_the_pickle(self, command: dict[str, Any]) -> dict[str, Any]:
        """A command with the pickle itself, whose length a frame's map says."""
        if command.get("filters", [{}])[0].get("pickle_b64") != _PICKLE.decode():
            return command
        return {**command, "filters": [{"id": "c", "pickle_b64": self._pickle.decode()}]}

    def mutants(self, dialect: Dialect, count: int) -> Iterator[Mutant]:
        """So many mutants of valid messages of a dialect, after which the stream goes on."""
        make = self._line if dialect is Dialect.LINE else self._frame
        made = (mutant for _ in iter(int, 1) if (mutant := make()) is not None)
        return islice(made, count)

    def closing(self, dialect: Dialect) -> Mutant:
        """A mutant of a valid message of a dialect that ends the stream."""
        if dialect is Dialect.LINE:
            text = self._random.choice(self._lines)
            return Mutant(text[: self._random.randrange(1, len(text))], Dialect.LINE, closes=True)
        return self._random.choice((self._cut_frame, self._unsound_frame))()

    def _line(self) -> Mutant | None:
        text = self._mutated(self._random.choice(self._lines)).replace(b"\n", b"\x0b")
        if not text.strip(_BLANK) or text.startswith(frames.MAGIC):
            return None
        return self._checked(text + b"\n", Dialect.LINE)

    def _checked(self, data: bytes, dialect: Dialect) -> Mutant | None:
        too_long = _LONG_TRAINING.search(data) or _LONG_TRAINING_IN_A_MAP.search(data)
        return None if too_long else Mutant(data, dialect)

    def _mutated(self, text: bytes) -> bytes:
        for _ in range(self._random.randrange(1, 4)):
            text = self._random.choice(self._ways)(self, text)
        return text.replace(_PICKLE, self._pickle)

    def _flip(self, text: bytes) -> bytes:
        if not text:
            return b"?"
        at = self._random.randrange(len(text))
        return text[:at] + bytes([text[at] ^ (1 << self._random.randrange(8))]) + text[at + 1 :]

    def _delete(self, text: bytes) -> bytes:
        start, end = self._slice(text)
        return text[:start] + text[end:]

    def _repeat(self, text: bytes) -> bytes:
        start, end = self._slice(text)
        return text[:end] + text[start:end] + text[end:]

    def _insert(self, text: bytes) -> bytes:
        at = self._random.randrange(len(text) + 1)
        return text[:at] + self._random.choice(_SNIPPETS) + text[at:]

    def _slice(self, text: bytes) -> tuple[int, int]:
        start = self._random.randrange(len(text) + 1)
        return start, min(len(text), start + self._random.randrange(1, 30))

    def _restructure(self, text: bytes) -> bytes:
        """Change the command where it still is JSON: another value, one key less or more."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            return text
        places = list(_places(fields))
        if not places:
            return text
        container, key = self._random.choice(places)
        choice = self._random.randrange(4)
        if choice == 0:
            del container[key]
        elif choice == 1 and isinstance(container, dict):
            container[self._random.choice(("cmd", "id", "data", "extra", "$soma", "type", ""))] = (
                self._random.choice(_VALUES)
            )
        else:
            container[key] = self._random.choice(_VALUES)
        return json.dumps(fields, ensure_ascii=self._random.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )

    _ways: tuple[Callable[[Mutator, bytes], bytes], ...] = (
        _flip, _delete, _repeat, _insert, _restructure, _restructure,
    )  # fmt: skip

    def _frame(self) -> Mutant | None:
        header, buffers = self._random.choice(self._frames)
        way = self._random.randrange(5)
        if way == 0:
            return self._frame_of(self._mutated_map(header), buffers)
        if way == 1:
            return self._frame_of(header, [self._mutated(buffer) for buffer in buffers])
        if way == 2:
            return self._frame_with_a_lying_table(header, buffers)
        if way == 3:
            return self._frame_with_a_lying_preamble(header, buffers)
        return self._frame_with_damaged_magic(header, buffers)

    def _mutated_map(self, header: bytes) -> bytes:
        """A map with other bytes, or with another value, one key less or more."""
        if self._random.random() < 0.5:
            return self._mutated(header)
        fields = unpack_map(header)
        container, key = self._random.choice(list(_places(fields)))
        if self._random.random() < 0.3:
            del container[key]
        else:
            container[key] = self._random.choice([*_VALUES[:5], *_VALUES[6:], *_EXTENSIONS])
        try:
            return packb(fields)
        except TypeError:  # an int of more than 64 bits
            return header

    def _frame_of(self, header: bytes, buffers: list[bytes]) -> Mutant | None:
        return self._checked(self._whole(header, buffers), Dialect.FRAME)

    def _whole(self, header: bytes, buffers: list[bytes]) -> bytes:
        entries = [
            frames.TableEntry(frames.EntryKind.INLINE, 0, 0, len(buffer)) for buffer in buffers
        ]
        return frames.write_frame(header, entries) + b"".join(buffers)

    def _frame_with_a_lying_table(self, header: bytes, buffers: list[bytes]) -> Mutant:
        pick = self._random.choice
        table = [[0, 0, 0, len(buffer)] for buffer in buffers] or [[0, 0, 0, 0]]
        for _ in range(self._random.randrange(1, 3)):
            entry = pick(table)
            field = self._random.randrange(4)
            entry[field] = pick(_NUMBERS if field < 2 else _LARGE_NUMBERS)
        written = b"".join(_ENTRY.pack(*entry) for entry in table)
        body = header + written + b"".join(buffers)
        return Mutant(_preamble(len(header), len(table), len(body)) + body, Dialect.FRAME)

    def _frame_with_a_lying_preamble(self, header: bytes, buffers: list[bytes]) -> Mutant:
        body = self._whole(header, buffers)[frames.PREAMBLE_SIZE :]
        header_size = self._random.choice([len(header) + self._random.randrange(-9, 9), *_NUMBERS])
        count = self._random.choice([len(buffers), len(buffers) + 1, *_NUMBERS])
        start = _preamble(max(0, header_size), count, len(body), self._random.choice([0, 1, 65535]))
        return Mutant(start + body, Dialect.FRAME)

    def _frame_with_damaged_magic(self, header: bytes, buffers: list[bytes]) -> Mutant:
        """What does not start with the whole magic is a line, even if only a bit is wrong."""
        data = bytearray(self._whole(header, buffers).replace(b"\n", b"\x0b"))
        data[self._random.randrange(len(frames.MAGIC))] ^= 1 << self._random.randrange(8)
        return Mutant(bytes(data).replace(b"\n", b"\x0b") + b"\n", Dialect.LINE)

    def _cut_frame(self) -> Mutant:
        data = self._whole(*self._random.choice(self._frames))
        return Mutant(
            data[: self._random.randrange(len(frames.MAGIC), len(data))], Dialect.FRAME, closes=True
        )

    def _unsound_frame(self) -> Mutant:
        data = bytearray(self._whole(*self._random.choice(self._frames)))
        at = self._random.randrange(len(frames.MAGIC), frames.PREAMBLE_SIZE)
        data[at] ^= 1 << self._random.randrange(8)
        return Mutant(bytes(data), Dialect.FRAME, closes=True)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value, as its container and its key there."""
    if isinstance(value, dict):
        keys: Any = list(value)
    elif isinstance(value, list):
        keys = range(len(value))
    else:
        return
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _preamble(header_size: int, entry_count: int, body_size: int, reserved: int = 0) -> bytes:
    fields = _PREAMBLE.pack(frames.MAGIC, 2, reserved, header_size, entry_count, body_size)
    return fields + struct.pack("<I", crc32(fields))
