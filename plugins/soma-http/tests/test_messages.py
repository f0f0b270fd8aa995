"""A message of soma is one message of a WebSocket, whatever is in it."""

from __future__ import annotations

import numpy as np
import pytest
from soma_http.messages import MessageReader, declared_size, is_frame, pieces_of

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.streams import StreamLimits
from soma_core.transport import Dialect, Message


def whole(message: Message) -> bytes:
    return b"".join(bytes(piece) for piece in pieces_of(message))


def read(data: bytes, **limits: int) -> Message:
    return MessageReader(StreamLimits(**limits)).read(data)


@pytest.mark.parametrize("sizes", [[], [0], [5], [0, 7, 0], [3 << 20], [1 << 16, 0, 9]])
def test_a_frame_comes_back_with_its_buffers_writable(sizes):
    buffers = [np.full(size, number + 1, np.uint8) for number, size in enumerate(sizes)]
    data = whole(Message(b"\x80", buffers))
    assert is_frame(data)
    assert declared_size(data) == len(data)
    header, came, dialect = read(data)
    assert (header, dialect) == (b"\x80", Dialect.FRAME)
    assert [bytes(buffer) for buffer in came] == [buffer.tobytes() for buffer in buffers]
    assert not any(memoryview(buffer).readonly for buffer in came)


def test_a_large_message_is_sent_in_pieces():
    message = Message(b"\x80", [np.zeros(5 << 20, np.uint8)])
    sizes = [memoryview(piece).nbytes for piece in pieces_of(message)]
    assert max(sizes) == 1 << 20
    assert len(sizes) == 6


def test_a_line_is_text_without_its_blanks():
    assert read(b' {"cmd":"PING"}\r\n') == (b'{"cmd":"PING"}', (), Dialect.LINE)


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"x", lambda d: d[:20]])
def test_what_is_not_one_whole_frame_is_malformed_and_the_next_is_read(change):
    reader = MessageReader(StreamLimits())
    frame = whole(Message(b"\x80", [b"12345"]))
    with pytest.raises(ProtocolError) as caught:
        reader.read(change(frame))
    assert caught.value.code is ErrorCode.MALFORMED
    assert bytes(reader.read(frame).buffers[0]) == b"12345"


def test_messages_beyond_the_limits_are_refused_by_name():
    with pytest.raises(ProtocolError, match="'line'"):
        read(b"x" * 11, line=10)
    with pytest.raises(ProtocolError, match="'body'"):
        read(whole(Message(b"\x80", [bytes(1000)])), body=500)
