"""Messages as Ray values, and the slate that an engine shows. Needs no Ray."""

from __future__ import annotations

import os
from contextlib import closing

import numpy as np
import pytest
from ormsgpack import packb
from soma_transport_ray.messages import LARGE, may_report, pack, unpack
from soma_transport_ray.slate import CLIENT_SIZE, Slate, SlateReader, Turn

from soma_core.transport import Dialect, Message

TOKEN = b"t" * CLIENT_SIZE
MINE, OTHER = Turn(b"m" * CLIENT_SIZE, 7), Turn(b"o" * CLIENT_SIZE, 7)
SIZES = [0, 1, LARGE - 1, LARGE, LARGE + 1, 0, 3]


def message(header: bytes, *sizes: int, dialect: Dialect = Dialect.FRAME) -> Message:
    return Message(
        header, [np.full(size, number, "u1") for number, size in enumerate(sizes)], dialect
    )


def content(messages):
    return [
        (header, [bytes(buffer) for buffer in buffers], dialect)
        for header, buffers, dialect in messages
    ]


def own(array):
    return bytearray(array)


@pytest.mark.parametrize(
    ("command", "may"),
    [
        (Message(packb({"cmd": "FIT", "events": True})), True),
        (Message(packb({"cmd": "FIT"})), False),
        (Message(b'{"cmd": "FIT", "events": true}', (), Dialect.LINE), True),
        (Message(rb'{"cmd": "FIT", "\u0065vents": true}', (), Dialect.LINE), True),
        (Message(b'{"cmd": "FIT"}', (), Dialect.LINE), False),
    ],
)
def test_a_command_that_asks_for_events_is_known_in_either_dialect(command, may):
    assert may_report(command) is may


@pytest.mark.parametrize("last", [True, False])
def test_messages_arrive_as_they_were(last):
    sent = [message(b"", *SIZES), message(b"x" * 70_000, dialect=Dialect.LINE), message(b"{}", 5)]
    received, was_last, printed = unpack(pack(sent, last=last, printed=(5, 1 << 40)), own)
    assert content(received) == content(sent)
    assert was_last is last
    assert printed == (5, 1 << 40)


def test_a_small_message_is_nothing_but_bytes():
    assert type(pack([message(b"{}", 10, LARGE - 1)])) is bytes


def test_only_large_buffers_stay_apart():
    _, *apart = pack([message(b"{}", *SIZES)])
    assert [array.nbytes for array in apart] == [LARGE, LARGE + 1]


def test_a_received_buffer_is_writable_and_apart_from_its_parcel():
    parcel = pack([message(b"{}", 10)])
    [first], *_ = unpack(parcel, own)
    memoryview(first.buffers[0])[:] = b"x" * 10
    assert bytes(unpack(parcel, own)[0][0].buffers[0]) == bytes(10)


@pytest.fixture
def slate():
    slate = Slate(TOKEN)
    yield slate
    os.close(slate.fd)


@pytest.fixture
def reader(slate):
    with closing(SlateReader(os.getpid(), slate.fd, TOKEN)) as reader:
        yield reader


def test_a_slate_says_whose_command_runs(slate, reader):
    assert not reader.runs(MINE)
    slate.begin(MINE, 0)
    assert reader.runs(MINE)
    assert not reader.runs(OTHER)
    slate.finish()
    assert not reader.runs(MINE)


def test_reports_are_shown_to_whom_they_concern_and_once(slate, reader):
    slate.begin(MINE, 3)
    assert reader.shown(MINE, 0) == ([], 3)
    slate.show(b"first")
    slate.show(b"second" * 10_000)
    assert reader.shown(MINE, 0) == ([b"first", b"second" * 10_000], 3)
    assert reader.shown(MINE, 1) == ([b"second" * 10_000], 3)
    assert reader.shown(OTHER, 0) is None
    slate.finish()
    assert reader.shown(MINE, 0) is None


def test_a_command_that_was_given_up_before_is_known_when_its_turn_comes(slate, reader):
    reader.withdraw(MINE)
    assert slate.begin(OTHER, 0) is False
    assert slate.begin(MINE, 0) is True
    assert slate.begin(MINE._replace(number=8), 0) is False


def test_another_process_is_not_taken_for_the_engine(slate):
    with pytest.raises(OSError, match="not the engine"):
        SlateReader(os.getpid(), slate.fd, b"u" * CLIENT_SIZE)
