"""Streams of messages made from sound ones: mutated as JSON, as frames and as bytes, and joined."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from soma_core.client.recording.entries import Direction, Entry, read_line
from soma_core.transport import Dialect, Message
from soma_core.wire.codec import Encoder, FrameEncoder, LineEncoder

__all__ = ["Input", "Inputs"]

VECTORS = Path(__file__).resolve().parents[2] / "schemas" / "vectors"
MOST_KEPT = 2000
LARGEST = 8000

NUMBERS = [0, 1, 2, 3, -1, 23, 24, 25, 28, 255, 2**16, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1]
DTYPES = [
    "float64", "<f4", ">i2", "bool", "complex128", "float16", "bfloat16", "float8_e4m3fn", "object",
    "O", "S", "U", "V", "S0", "U4", "V7", "V2147483647", "<U100000000", "M8[ns]", "m8",
    "datetime64",
    "i4,f8", "(1000000,)f8", "f8" * 50, "[('a','<i4')]", [["a", "<i4"], ["b", "|O"]], [], 1, None,
    [["a", "<f8", [1 << 28]]], [["", "<f8"]], [["a", "<f8"], ["a", "<f8"]], "float64\x00",
    "longdouble",
]  # fmt: skip
SHAPES = [
    [], [0], [1], [2], [3], [-1], [1, 1], [2, 2], [0, 1 << 40], [1 << 62, 0], [1 << 32, 1 << 32],
    [1] * 40, [1] * 80, [True], [1.0], ["1"], None, 3, [1 << 64], [0] * 30, [50_000, 0], [10, 0,
    10],
]  # fmt: skip
SCALARS: list[Any] = [
    None, True, False, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "a", "ÿ", "\ud800", "\x00",
    "x" * 300, [], {}, [[]], "AAAA", "!", "never", "value", "safetensors", "torch", "last", 10**400,
]  # fmt: skip
IDS = [b"07", b"-1", b"+1", b"1.0", b"1e2", b" 3 ", b'"a"', b"null", b"9" * 30, b"1_0", b"{}"]
SNIPPETS = [
    b"\n", b"\r", b" ", b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x93",
    b"\x93SOM",
    b"\x93SOMA", b"\x93SOMA\x01\x00\x00", b'"', b"\\", b"\\ud800", b"{", b"}", b"[", b"]", b",",
    b":",
    b"[" * 300, b'{"a":' * 300, b"]" * 40, b"9" * 5000, b"NaN", b"-Infinity", b"1e999", b"-",
    b"null",
    b'{"cmd":"PING"}\n', b'"id":1,', b'"cmd":"PING",', b"x" * 3000,
]  # fmt: skip


class Input(NamedTuple):
    """One run of the target.

    Attributes:
        stream: What comes.
        cuts: Where it is cut into the pieces in which it comes.
    """

    stream: bytes
    cuts: tuple[int, ...] = ()


class Inputs:
    """Everything drawn by chance, from one seed.

    Inputs that showed something new are kept and mutated again, so that the streams find their
    way to code that needs several steps to reach.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._sound = list(_sound_messages())
        self._kept: list[bytes] = []

    def keep(self, given: Input) -> None:
        """Mutate this one again later."""
        if len(self._kept) < MOST_KEPT:
            self._kept.append(given.stream)

    def draw(self) -> Input:
        """The next input."""
        chance = self._chance
        if self._kept and chance.random() < 0.4:
            stream = self._mutated_bytes(chance.choice(self._kept))
        elif chance.random() < 0.2:
            stream = self._repeated()
        else:
            stream = b"".join(self._message() for _ in range(chance.choice([1, 1, 1, 2, 3, 5])))
        if chance.random() < 0.1:
            stream = stream[: chance.randrange(len(stream) + 1)]
        stream = stream[:LARGEST]
        cuts = sorted(chance.randrange(len(stream) + 1) for _ in range(chance.choice([0, 0, 1, 9])))
        return Input(stream, tuple(cuts))

    def _message(self) -> bytes:
        chance = self._chance
        header, buffers, _ = chance.choice(self._sound)
        fields = json.loads(header)
        for _ in range(chance.choice([0, 1, 1, 1, 2, 4])):
            fields = self._mutated_json(fields)
        text = _write(fields)
        if chance.random() < 0.2:
            text = self._mutated_bytes(text)
        framed = bool(buffers) or chance.random() < 0.5
        data = self._frame(text, [bytes(buffer) for buffer in buffers]) if framed else text + b"\n"
        return self._mutated_bytes(data) if chance.random() < 0.15 else data

    def _repeated(self) -> bytes:
        """One message again and again, as a loop sends it, and others that are almost the same."""
        chance = self._chance
        header, buffers, _ = chance.choice(self._sound)
        fields = json.loads(header)
        if chance.random() < 0.3:
            fields = self._mutated_json(fields)
        if isinstance(fields, dict):
            fields.pop("id", None)
        before = _write(fields, compact=True)[:-1]
        stream = b""
        for number in range(chance.choice([3, 4, 6])):
            spelled = chance.choice([b"%d" % number] * 9 + IDS)
            text = before + b',"id":' + spelled + b"}"
            data = [bytes(buffer) for buffer in buffers]
            if chance.random() < 0.1:
                data = [buffer[: chance.randrange(len(buffer) + 1)] for buffer in data]
            stream += self._frame(text, data) if buffers else text + b"\n"
        return stream

    def _mutated_json(self, value: Any) -> Any:
        """Replace one node of the tree, or change what an object holds."""
        chance = self._chance
        if isinstance(value, dict) and value and chance.random() < 0.9:
            key = chance.choice(list(value))
            changed = dict(value)
            choice = chance.random()
            if choice < 0.07:
                del changed[key]
            elif choice < 0.14:
                changed[chance.choice(["id", "meta", "events", "y", "x", "", "type"])] = self._any()
            else:
                changed[key] = self._mutated_json(value[key])
            return changed
        if isinstance(value, list) and value and chance.random() < 0.7:
            changed_list = list(value)
            at = chance.randrange(len(value))
            changed_list[at] = self._mutated_json(value[at])
            return changed_list * chance.choice([1, 1, 1, 2])
        return self._any()

    def _any(self) -> Any:
        chance = self._chance
        choice = chance.random()
        if choice < 0.3:
            return chance.choice(SCALARS)
        if choice < 0.45:
            return chance.choice(NUMBERS)
        return self._tagged()

    def _tagged(self) -> Any:
        chance = self._chance
        payload = chance.choice(
            [
                {"values": chance.choice([[], [1], [1.5, None], ["a"], [[1]], [True], [2**70], 3])},
                {"b64": chance.choice(["", "AAAA", "AAAAAAAAAAA=", "!", 1])},
                {"buffer": chance.choice([0, 0, 1, -1, 2**64, None, "0"])},
                {},
            ]
        )
        tensor: dict[str, Any] = {**payload, "shape": chance.choice(SHAPES)}
        if chance.random() < 0.8:
            tensor["dtype"] = chance.choice(DTYPES)
        if chance.random() < 0.1:
            tensor["container"] = chance.choice(["numpy", "", None])
        inside = chance.choice([tensor, *SCALARS, chance.choice(NUMBERS)])
        tags: list[Any] = [
            {"type": "Tensor", "data": tensor},
            {"type": "Tensor", "data": tensor},
            {"type": chance.choice(["Json", "Text", "Bytes", "Object", "Tensor"]), "data": inside},
            {"type": "Bytes", "data": chance.choice([[0, 255], [256], {"b64": "AA=="}, payload])},
            {"type": "Empty"},
            {"__pickle_b64__": inside},
            {"$soma": "float", "value": chance.choice(["nan", "inf", "1", 1, None])},
            {"$soma": "int", "value": chance.choice(["0xff", "-0x1", "x", 1, "0x" + "f" * 5000])},
            {"$soma": "dict", "items": chance.choice([[["a", inside]], [[1, 2]], [["a"]], 1])},
            {"$soma": "tuple", "items": chance.choice([[inside], "ab", None, {"a": 1}])},
            {"$soma": "floats", "buffer": chance.choice([0, 1, -1, True, None, inside])},
            {"$soma": "scalar", "array": chance.choice([{"type": "Tensor", "data": tensor}, 1])},
            {"$soma": inside},
        ]
        return chance.choice(tags)

    def _frame(self, header: bytes, buffers: list[bytes]) -> bytes:
        """A frame; now and then one that lies."""
        chance = self._chance
        if chance.random() < 0.2:
            buffers = [*buffers, chance.randbytes(chance.choice([0, 1, 8, 100]))]
        entries = [[0, 0, 0, len(buffer)] for buffer in buffers]
        if chance.random() < 0.15:
            entries.append([chance.randrange(7), chance.randrange(3), chance.randrange(3), 8])
        if entries and chance.random() < 0.1:
            chance.choice(entries)[chance.choice([0, 1, 2, 3, 3, 3])] = chance.choice(NUMBERS)
        table = b"".join(
            struct.pack("<IIQQ", kind % 2**32, region % 2**32, generation % 2**64, size % 2**64)
            for kind, region, generation, size in entries
        )
        body = b"".join([header, table, *buffers])
        numbers = [1, 0, len(header), len(entries), len(body)]
        if chance.random() < 0.1:
            numbers[chance.randrange(5)] = chance.choice([*NUMBERS, len(header) + 1])
        version, reserved, header_size, count, body_size = numbers
        fields = struct.pack(
            "<5sBHIIQ", b"\x93SOMA", version % 2**8, reserved % 2**16, header_size % 2**32,
            count % 2**32, body_size % 2**64,
        )  # fmt: skip
        return fields + struct.pack("<I", crc32(fields)) + body

    def _mutated_bytes(self, data: bytes) -> bytes:
        chance = self._chance
        for _ in range(chance.choice([1, 1, 2, 5])):
            at = chance.randrange(len(data) + 1)
            end = min(len(data), at + chance.choice([0, 1, 1, 2, 8, 40]))
            put = chance.choice(
                [
                    b"",
                    chance.choice(SNIPPETS),
                    chance.randbytes(chance.choice([1, 1, 4])),
                    data[at:end] * 2,
                ]
            )
            data = data[:at] + put + data[end:]
        return data


def _write(fields: Any, *, compact: bool = False) -> bytes:
    separators = (",", ":") if compact else None
    try:
        return json.dumps(fields, ensure_ascii=False, separators=separators).encode()
    except UnicodeEncodeError:  # a lone surrogate
        return json.dumps(fields, separators=separators).encode()


def _sound_messages() -> Iterator[Message]:
    """The commands of the golden vectors, and FORWARDs of many kinds of data."""
    for dialect in Dialect:
        for line in (VECTORS / f"{dialect.value}.jsonl").read_bytes().splitlines():
            entry = read_line(line)
            if isinstance(entry, Entry) and entry.direction is Direction.COMMAND:
                yield entry.message
    for value in _values():
        for encoder in (LineEncoder(), FrameEncoder()):
            yield _forward(value, encoder)


def _forward(value: Any, encoder: Encoder) -> Message:
    fields = {"cmd": "FORWARD", "node_id": "center", "data": encoder.encode(value), "state": None}
    buffers: Sequence[Any] = getattr(encoder, "buffers", ())
    return Message(_write(fields), [bytes(buffer) for buffer in buffers])


def _values() -> list[Any]:
    return [
        1, "text", b"bytes", [1.0, float("nan")], (1, (2,)), {"type": "Text", "data": "looks so"},
        np.arange(6.0).reshape(2, 3), np.arange(3, dtype="int8"), np.zeros((0, 2), bool),
        np.array(["ab"]), np.array("2020-01-01", "M8[D]"), np.float32(1.5), np.complex64(1j),
        np.zeros(2, [("a", "<i4"), ("b", "<f8", (2,))]), {"nested": [np.ones(2), {"x": b""}]},
        10**4500,
    ]  # fmt: skip
