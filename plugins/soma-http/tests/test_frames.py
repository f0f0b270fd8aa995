"""Frames of a WebSocket are read as websockets writes them, however they are cut."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from soma_http.frames import BadFrame, FrameReader, frame_header
from soma_http.server.incoming import Incoming
from websockets import frames as reference
from websockets.frames import CloseCode, Opcode

from soma_core.streams import frame_parts
from soma_core.transport import Dialect, Message

SIZES = [0, 1, 125, 126, 127, 65_535, 65_536, 70_000]


def written(*given: tuple[Opcode, bytes, bool], masked: bool = True) -> bytes:
    """Frames, as websockets writes them."""
    return b"".join(
        reference.Frame(opcode, data, fin=last).serialize(mask=masked)
        for opcode, data, last in given
    )


def read(data: bytes, cuts: Any = (), **options: Any) -> list[tuple[int, bytes, bool]]:
    """What a reader finds in bytes that come in pieces."""
    reader = FrameReader(**{"masked": True, "largest": 1 << 20, **options})
    ends = [*cuts, len(data)]
    pieces = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    found = [frame for piece in pieces for frame in reader.feed(piece)]
    return [(frame.opcode, bytes(frame.payload), frame.last) for frame in found]


@pytest.mark.parametrize("masked", [True, False])
def test_frames_of_every_size_come_as_they_were_sent(masked):
    given = [(Opcode.BINARY, os.urandom(size), True) for size in SIZES]
    data = written(*given, masked=masked)
    assert read(data, masked=masked) == given
    chance = random.Random(1)
    for _ in range(50):
        cuts = sorted(chance.sample(range(1, len(data)), 8))
        assert read(data, cuts, masked=masked) == given
    small = written(*given[:4], masked=masked)
    assert read(small, range(1, len(small)), masked=masked) == given[:4]


def test_headers_are_those_that_websockets_writes():
    for size in SIZES:
        for last in (True, False):
            wanted = reference.Frame(Opcode.TEXT, bytes(size), fin=last).serialize(mask=False)
            assert frame_header(Opcode.TEXT, size, last=last) + bytes(size) == wanted


def test_a_ping_may_come_between_the_fragments_of_a_message():
    given = [
        (Opcode.TEXT, b"a", False),
        (Opcode.PING, b"now", True),
        (Opcode.CONT, b"b", False),
        (Opcode.CONT, b"c", True),
        (Opcode.BINARY, b"d", True),
    ]
    assert read(written(*given)) == given


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (written((Opcode.TEXT, b"a", True), masked=False), CloseCode.PROTOCOL_ERROR),
        (written((Opcode.CONT, b"a", True)), CloseCode.PROTOCOL_ERROR),
        (
            written((Opcode.TEXT, b"a", False), (Opcode.TEXT, b"a", True)),
            CloseCode.PROTOCOL_ERROR,
        ),
        (b"\x83\x80\0\0\0\0", CloseCode.PROTOCOL_ERROR),
        (b"\xc1\x80\0\0\0\0", CloseCode.PROTOCOL_ERROR),
        (b"\x09\x80\0\0\0\0", CloseCode.PROTOCOL_ERROR),
        (b"\x89\xfe\0\x80", CloseCode.PROTOCOL_ERROR),
        (b"\x82\xff" + bytes([255] * 8), CloseCode.MESSAGE_TOO_BIG),
        (
            written((Opcode.TEXT, bytes(600_000), False), (Opcode.CONT, bytes(600_000), True)),
            CloseCode.MESSAGE_TOO_BIG,
        ),
    ],
    ids=range(9),
)
def test_what_breaks_the_protocol_is_refused_with_its_code(data, code):
    with pytest.raises(BadFrame) as caught:
        read(data)
    assert caught.value.code is code


def test_noise_is_refused_or_waited_for_and_never_an_error_of_the_reader():
    chance = random.Random(2)
    for _ in range(2000):
        try:
            read(chance.randbytes(chance.randrange(1, 40)), [1])
        except BadFrame:
            continue


def sent_on(*given: tuple[Opcode, bytes, bool]) -> bytes:
    """What a worker gets of a client's frames."""
    incoming = Incoming()
    reader = FrameReader(masked=True, largest=1 << 20)
    return b"".join(incoming.take(frame) for frame in reader.feed(written(*given)))


def test_a_worker_gets_lines_and_frames_however_a_client_cuts_them():
    frame = b"".join(
        map(bytes, frame_parts(Message(b"\x80", (memoryview(b"data"),), Dialect.FRAME)))
    )
    for cut in range(1, len(frame)):
        pieces = [(Opcode.BINARY, frame[:cut], False), (Opcode.CONT, frame[cut:], True)]
        assert sent_on(*pieces) == frame
    assert sent_on((Opcode.TEXT, b"{\n", False), (Opcode.CONT, b"}", True)) == b"{ }\n"
    assert sent_on((Opcode.TEXT, b"{}", True), (Opcode.BINARY, frame, True)) == b"{}\n" + frame


def test_a_binary_message_that_is_not_one_whole_frame_is_refused():
    frame = b"".join(
        map(bytes, frame_parts(Message(b"\x80", (memoryview(b"data"),), Dialect.FRAME)))
    )
    for data in (b"", b"no frame", frame[:-1], frame + b"x", frame + frame):
        with pytest.raises(ValueError, match="one whole frame"):
            sent_on((Opcode.BINARY, data, True))
