"""The lines of a recording: exact, self-describing, readable by any language."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ormsgpack import packb

from soma_core import ProtocolError
from soma_core.client.recording.entries import (
    Direction,
    Entry,
    LeftOut,
    Section,
    read_line,
    write_entry,
    write_section,
)
from soma_core.transport import Dialect, Message
from soma_core.wire.json_text import write_json
from soma_core.wire.packing import pack
from soma_core.wire.pickles import Pickles


def entry(header: bytes, buffers=(), dialect=Dialect.LINE, direction=Direction.REPLY) -> Entry:
    return Entry(7, direction, 6, 1.5, Message(header, list(buffers), dialect))


def strict(line: bytes) -> dict:
    """Parses JSON as languages do that know no NaN."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(line, parse_constant=refuse)


HEADERS = [
    b'{"ok":true,"result":[1,2.5,"\xc3\xa4"]}',
    b'{"ok":true,"result":[1.0,NaN,Infinity]}',
    b'{ "ok" : true }',
    b'{"ok":true,\n"pretty":1}',
    b'{"a":1,"a":2}',
    b'{"x":"\\ud800"}',
    b'{"big":' + b"9" * 5000 + b"}",
    b'{"huge":1e400,"exponent":1E5}',
    b"[" * 190 + b"]" * 190,
    b"[" * 5000 + b"]" * 5000,
    b"\xff\xfe not even text",
    b"",
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_a_header_is_read_back_byte_for_byte_and_the_line_is_strict_json(header):
    line = write_entry(entry(header))
    assert line.count(b"\n") == 1
    assert strict(line)["n"] == 7
    assert read_line(line).message.header == header


@given(st.binary(max_size=60), st.sampled_from(Dialect))
def test_any_bytes_are_read_back(header, dialect):
    line = write_entry(entry(header, dialect=dialect))
    strict(line)
    assert read_line(line).message == Message(header, [], dialect)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_header_that_soma_writes_is_read_back(content):
    header = write_json(content)
    line = write_entry(entry(header))
    strict(line)
    assert read_line(line).message.header == header


def test_the_map_of_a_frame_is_shown_as_json_and_read_back_byte_for_byte():
    header, buffers = pack({"ok": True, "result": (np.ones(2), float("nan"), 2**70)}, Pickles())
    line = write_entry(entry(header, buffers, Dialect.FRAME))
    array = {"type": "Tensor", "data": {"buffer": 0, "dtype": "float64", "shape": [2]}}
    shown = {"$soma": "tuple", "items": [array, "NaN", {"$soma": "int", "value": hex(2**70)}]}
    assert strict(line)["message"] == {"ok": True, "result": shown}
    assert read_line(line).message.header == header


def test_a_readable_header_stands_in_the_line_as_json():
    assert strict(write_entry(entry(b'{"ok":true}')))["message"] == {"ok": True}


def test_everything_of_an_entry_is_read_back():
    buffers = [b"\0\1\2", bytearray(b""), np.arange(6.0).reshape(2, 3), LeftOut.of(b"large")]
    written = entry(b"{}", buffers, Dialect.LINE, Direction.EVENT)
    read = read_line(write_entry(written))
    assert read[:4] == written[:4]
    assert read.message.dialect is Dialect.LINE
    assert read.message.buffers[:3] == [b"\0\1\2", b"", np.arange(6.0).tobytes()]
    left_out = read.message.buffers[3]
    assert (left_out.size, left_out.sha256) == (5, hashlib.sha256(b"large").hexdigest())


def test_a_line_written_by_hand_may_leave_out_what_has_a_default():
    read = read_line(b'{ "n": 3, "direction": "command", "message": {"cmd": "PING"} }')
    assert read == Entry(3, Direction.COMMAND, 3, 0.0, Message(packb({"cmd": "PING"}), []))


def test_a_section_is_read_back():
    section = Section(
        time=1.0, soma="1", python="3.11", cloudpickle="3", transport="stdio", options={"a": [1]}
    )
    assert read_line(write_section(section)) == section


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"no json", "invalid JSON"),
        (b"[]", "valid dictionary"),
        (b'{"n": 1}', "direction"),
        (b'{"n": 0, "direction": "reply", "message": {}}', "greater than or equal to 1"),
        (b'{"n": 1, "direction": "sideways", "message": {}}', "'command', 'reply'"),
        (b'{"n": 1, "direction": "reply"}', "exactly one of message and message_b64"),
        (b'{"n": 1, "direction": "reply", "message": {}, "buffers": ["!"]}', "base64"),
        (b'{"n": 1, "direction": "reply", "message": {}, "more": 1}', "more"),
        (b'{"soma_recording": 1}', "a recording of format 1; this soma reads format 2"),
    ],
)
def test_a_line_that_is_neither_is_refused_with_the_reason(line, complaint):
    with pytest.raises(ProtocolError, match=complaint):
        read_line(line)
