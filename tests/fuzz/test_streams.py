"""Streams of messages that lie in any way: each gets one sound reply, and the stream goes on.

``SOMA_FUZZ_EXAMPLES=100000`` tries as many inputs of each kind.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ormsgpack import Ext, packb

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.protocol.dialects import read_fields
from soma_core.serve import Responder
from soma_core.testing import Echo
from soma_core.transport import Dialect, Message
from soma_core.wire import frames
from soma_core.wire.extensions import Extension
from soma_core.wire.packing import pack
from soma_core.wire.parser import MessageParser, StreamLimits
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import unpack

HUNT = int(os.environ.get("SOMA_FUZZ_EXAMPLES", "50"))
settings.register_profile("streams", deadline=None, database=None, max_examples=HUNT)
STREAMS = settings(settings.get_profile("streams"))

CODES = set(ErrorCode)
NEVER = Pickles(allowed=False)
PING = packb({"cmd": "PING", "id": "in step"})

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=6)
    | st.binary(max_size=6)
)
INDEXES = st.integers(-2, 4) | st.sampled_from([True, 2**40, "0", None, 0.0])
DTYPES = st.sampled_from(["float64", "int8", "<U3", "O", "", "V0", "bfloat16", [["a", "<f4"]], 3])
SHAPES = st.lists(st.integers(-1, 3) | st.just(2**40), max_size=3) | st.just("3")
ORDERS = st.lists(st.integers(-1, 3), max_size=3)
NAMES = st.sampled_from(["set", "datetime", "UUID", "Decimal", "range", "Path", "no such"])


def extensions(inner: Any) -> Any:
    """Extension types of any content, much of it almost right."""
    contents = st.one_of(
        st.tuples(INDEXES, DTYPES, SHAPES),
        st.tuples(INDEXES, DTYPES, SHAPES, ORDERS),
        st.tuples(DTYPES, st.binary(max_size=24)),
        st.tuples(INDEXES, st.lists(INDEXES, max_size=2)),
        st.tuples(NAMES, inner),
        st.tuples(st.text(max_size=4), st.text(max_size=4), inner, st.lists(INDEXES, max_size=2)),
        st.lists(st.lists(inner, min_size=2, max_size=2), max_size=2),
        st.tuples(st.lists(st.text(max_size=2), max_size=2), st.lists(inner, max_size=2)),
        st.tuples(st.lists(INDEXES, max_size=3), st.lists(inner, max_size=3)),
        st.tuples(NAMES, st.lists(inner, max_size=2)),
        st.tuples(INDEXES, INDEXES, st.lists(INDEXES, max_size=2)),
        inner,
    )
    data = contents.map(lambda content: packb(content)) | st.binary(max_size=20)
    return st.builds(Ext, st.sampled_from([*map(int, Extension), 0, 99, 127]), data)


CONTENT = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        | extensions(inner)
    ),
    max_leaves=8,
)
COMMANDS = st.fixed_dictionaries(
    {"cmd": st.sampled_from(["FORWARD", "FIT", "SET_STATE", "COMPOSITE_FORWARD", "PING", "DANCE"])},
    optional={
        "id": PLAIN,
        "node_id": st.sampled_from(["echo", "nobody", ""]),
        "node_ids": st.lists(st.just("echo"), max_size=2),
        "data": CONTENT,
        "y": CONTENT,
        "state": CONTENT,
        "states": CONTENT,
        "fit_state": CONTENT,
        "state_b64": CONTENT,
        "meta": CONTENT,
        "colour": CONTENT,
    },
)
BUFFERS = st.lists(st.binary(max_size=32), max_size=3)
MAPS = COMMANDS.map(packb)


@pytest.fixture(scope="module", params=["same-user", "never"])
def responder(request: pytest.FixtureRequest) -> Responder:
    responder = Responder(pickle=request.param)
    allowed = Responder(pickle="same-user")
    spec = {"id": "echo", "pickle_b64": Pickles().dump(Echo())}
    allowed.respond(Message(packb({"cmd": "LOAD", "filters": [spec]})), lambda event: None)
    responder.engine.nodes.add(allowed.engine.nodes)
    return responder


def answered(responder: Responder, message: Message) -> dict[str, Any]:
    """The reply to a message, which must be sound and in the message's dialect."""
    reply = responder.respond(message, lambda event: None)
    assert reply.dialect is message.dialect
    fields = read_fields(reply)
    assert fields["ok"] is True or (fields["ok"] is False and fields["code"] in CODES)
    assert fields.get("code") != ErrorCode.INTERNAL, fields
    return fields


def in_step(responder: Responder) -> bool:
    return answered(responder, Message(PING))["id"] == "in step"


@STREAMS
@given(header=MAPS, buffers=BUFFERS)
def test_a_map_of_anything_gets_one_reply(
    responder: Responder, header: bytes, buffers: list[bytes]
) -> None:
    answered(responder, Message(header, [bytearray(buffer) for buffer in buffers]))
    assert in_step(responder)


@STREAMS
@given(header=MAPS, changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255))))
def test_a_map_with_changed_bytes_gets_one_reply(
    responder: Responder, header: bytes, changes: list[tuple[int, int]]
) -> None:
    damaged = bytearray(header)
    for position, byte in changes:
        damaged[position % len(damaged)] = byte
    answered(responder, Message(bytes(damaged), [bytearray(8)]))
    assert in_step(responder)


@STREAMS
@given(header=st.binary(max_size=80), dialect=st.sampled_from(Dialect))
def test_any_bytes_get_one_reply(responder: Responder, header: bytes, dialect: Dialect) -> None:
    answered(responder, Message(header, (), dialect))
    assert in_step(responder)


DEEP = {
    "arrays": b"\x91" * 10_000 + b"\xc0",
    "maps": b"\x81\xa1a" * 10_000 + b"\xc0",
    "2^32 items": b"\xdd\xff\xff\xff\xff",
    "2^32 entries": b"\xdf\xff\xff\xff\xff",
    "a text of 2^32 bytes": b"\xdb\xff\xff\xff\xff",
    "an extension of 2^32 bytes": b"\xc9\xff\xff\xff\xff\x01",
}


@pytest.mark.parametrize("name", DEEP)
def test_what_nests_or_declares_without_end_is_refused(responder: Responder, name: str) -> None:
    header = packb({"cmd": "FORWARD", "node_id": "echo"})
    header = bytes([header[0] + 1]) + header[1:] + packb("data") + DEEP[name]
    assert answered(responder, Message(header))["code"] == ErrorCode.MALFORMED
    assert in_step(responder)


@pytest.mark.parametrize(
    ("levels", "padding"), [(9, 0), (40, 0), (5000, 0), (9, 1000), (40, 1000), (400, 1000)]
)
def test_extension_types_within_each_other_end_in_a_reply(
    responder: Responder, levels: int, padding: int
) -> None:
    data = b"\xc0"
    for _ in range(levels):
        data = b"\x91" * padding + packb(Ext(Extension.TUPLE, b"\x91" + data))
    header = packb({"cmd": "FORWARD", "node_id": "echo"})
    header = bytes([header[0] + 1]) + header[1:] + packb("data") + data
    fields = answered(responder, Message(header))
    assert fields["ok"] is (padding == 0 and levels < 50)
    assert in_step(responder)


def framed(header: bytes, buffers: list[bytes]) -> bytes:
    entries = [frames.TableEntry(frames.EntryKind.INLINE, 0, 0, len(buffer)) for buffer in buffers]
    return frames.write_frame(header, entries) + b"".join(buffers)


def lying(header: bytes, table: list[tuple[int, int, int, int]], rest: bytes) -> bytes:
    """A frame with a sound preamble, and a table of any numbers."""
    written = b"".join(struct.pack("<IIQQ", *entry) for entry in table)
    size = len(header) + len(written) + len(rest)
    fields = struct.pack("<8sIIQ", frames.MAGIC + b"\x02\0\0", len(header), len(table), size)
    return fields + struct.pack("<I", zlib.crc32(fields)) + header + written + rest


NUMBERS = st.integers(0, 7) | st.sampled_from([2**31, 2**32 - 1])
SIZES = st.integers(0, 40) | st.sampled_from([2**40, 2**63, 2**64 - 1])
TABLES = st.lists(st.tuples(NUMBERS, NUMBERS, SIZES, SIZES), max_size=4)
PARTS = st.one_of(
    st.builds(framed, MAPS, BUFFERS),
    st.builds(lying, MAPS, TABLES, st.binary(max_size=40)),
    st.just(b'{"cmd":"PING"}\n'),
    st.binary(max_size=20).map(lambda data: data.replace(b"\x93", b"?") + b"\n"),
)


@STREAMS
@given(parts=st.lists(PARTS, max_size=5), cuts=st.lists(st.integers(1, 60), min_size=1))
def test_a_stream_is_read_alike_however_it_is_cut(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts) + framed(PING, [])
    pieces, start = [], 0
    for cut in [*cuts, len(stream)]:
        pieces.append(stream[start : start + cut])
        start += cut
    whole, piecewise = read([stream]), read(pieces)
    assert whole == piecewise
    assert whole[-1] == ("message", PING)


def read(pieces: list[bytes]) -> list[tuple[str, Any]]:
    """What a parser makes of a stream that comes in pieces."""
    parser = MessageParser(StreamLimits(line=10_000, header=10_000, body=100_000))
    found: list[tuple[str, Any]] = []
    for piece in [*pieces, b""]:
        rest = memoryview(piece)
        while parser.target and rest:
            count = min(len(rest), len(parser.target))
            parser.target[:count] = rest[:count]
            take(found, lambda count=count: parser.filled(count))
            rest = rest[count:]
        if rest or not piece:
            take(found, lambda rest=rest: parser.feed(rest) if not parser.target else None)
        while take(found, parser.next_message):
            pass
    return found


def take(found: list[tuple[str, Any]], step: Any) -> bool:
    """Whether a step of a parser gave a message or an error."""
    try:
        message = step()
    except ProtocolError as error:
        found.append(("error", error.code))
        return True
    if message is not None:
        found.append(("message", message.header))
    return message is not None


VALUES = st.recursive(
    PLAIN | st.complex_numbers() | st.integers() | st.text(max_size=3).map(np.str_),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.lists(st.tuples(inner, inner), min_size=9, max_size=12)
    ),
    max_leaves=10,
)


@STREAMS
@given(value=VALUES)
def test_any_value_comes_back_as_it_was(value: Any) -> None:
    header, buffers = pack(value, NEVER)
    arrived = unpack(header, [bytearray(memoryview(buffer)) for buffer in buffers], NEVER)
    assert repr(arrived) == repr(value)
