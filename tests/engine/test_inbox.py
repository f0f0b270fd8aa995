"""The inbox: what a host sends while a command runs, and what of it interrupts."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from soma_core.errors import ChannelClosed, ProtocolError
from soma_core.serve import Inbox
from soma_core.streams import SocketStream, StreamChannel

Send = Callable[..., None]


@pytest.fixture
def wire() -> Iterator[tuple[Send, Inbox, socket.socket]]:
    """What sends messages as lines, the inbox that gets them, and the end of the wire."""
    ours, theirs = socket.socketpair()
    channel = StreamChannel(SocketStream(theirs))
    inbox = Inbox(channel)

    def send(*messages: object) -> None:
        ours.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    handler = signal.signal(signal.SIGIO, signal.SIG_IGN)
    inbox.announce()
    yield send, inbox, ours
    channel.close()
    ours.close()
    signal.signal(signal.SIGIO, handler)


def interrupt(command: object) -> dict[str, object]:
    return {"cmd": "INTERRUPT", "command": command}


def ids(inbox: Inbox, count: int) -> list[object]:
    return [json.loads(inbox.receive(5.0).header).get("id") for _ in range(count)]


def test_messages_are_received_in_the_order_in_which_they_were_sent_looked_at_or_not(wire):
    send, inbox, _ = wire
    send({"id": 1}, {"id": 2})
    inbox.look()
    send({"id": 3})
    assert ids(inbox, 3) == [1, 2, 3]


def test_a_command_is_named_by_a_message_that_waits_until_that_has_its_turn(wire):
    send, inbox, _ = wire
    send({"id": 2}, interrupt(1), interrupt("b"))
    assert not inbox.names(1)
    inbox.look()
    assert (inbox.names(1), inbox.names("b"), inbox.names(2)) == (True, True, False)
    ids(inbox, 2)
    assert (inbox.names(1), inbox.names("b")) == (False, True)
    ids(inbox, 1)
    assert not inbox.names("b")


@pytest.mark.parametrize(
    "message",
    [
        {"cmd": "FORWARD", "command": 1, "data": "INTERRUPT"},
        {"cmd": "INTERRUPT"},
        {"cmd": "INTERRUPT", "command": [1]},
        {"cmd": "INTERRUPT", "command": True},
        ["INTERRUPT", 1],
        {"cmd": "INTERRUPT", "command": 1, "meta": {"long": "x" * 5000}},
    ],
    ids=lambda message: json.dumps(message)[:50],
)
def test_nothing_else_names_a_command(wire, message):
    send, inbox, _ = wire
    send(message)
    inbox.look()
    assert inbox.has_waiting
    assert not inbox.names(1)


def test_half_a_message_is_left_until_the_rest_has_come(wire):
    _, inbox, end = wire
    end.sendall(b'{"cmd": "INTERRUPT", ')
    inbox.look()
    assert not inbox.has_waiting
    end.sendall(b'"command": 1}\n')
    inbox.look()
    assert inbox.names(1)


def test_what_is_no_message_is_raised_in_its_turn(wire):
    send, inbox, end = wire
    send({"id": 1})
    end.sendall(b"\x93SOMA\x07" + bytes(100))
    inbox.look()
    assert ids(inbox, 1) == [1]
    with pytest.raises(ProtocolError, match="frame"):
        inbox.receive(5.0)


def test_the_end_of_the_wire_comes_after_what_was_sent_before_it(wire):
    send, inbox, end = wire
    send({"id": 1})
    end.shutdown(socket.SHUT_WR)
    inbox.look()
    inbox.look()
    assert ids(inbox, 1) == [1]
    with pytest.raises(ChannelClosed):
        inbox.receive(5.0)


def test_no_more_than_64_messages_are_read_ahead(wire):
    send, inbox, _ = wire
    send(*({"id": number} for number in range(64)), interrupt("late"))
    inbox.look()
    assert not inbox.names("late")
    assert ids(inbox, 1) == [0]
    inbox.look()
    assert inbox.names("late")


def test_what_need_not_be_executed_is_taken_out_as_far_as_it_is_next(wire):
    send, inbox, _ = wire
    send({"id": 1}, interrupt(1), {"id": 2}, interrupt(3))
    assert inbox.take_settled() is None  # nothing was looked at
    inbox.look()
    taken = [inbox.take_settled(), inbox.take_settled()]
    assert [json.loads(message.header) for message in taken] == [{"id": 1}, interrupt(1)]
    assert inbox.take_settled() is None
    assert ids(inbox, 1) == [2]


def test_the_kernel_says_when_something_has_come(wire):
    send, _, _ = wire
    came: list[int] = []
    signal.signal(signal.SIGIO, lambda signum, frame: came.append(signum))
    send({"id": 1})
    assert came
