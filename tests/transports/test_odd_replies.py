"""Replies that no worker of ours sends are told as such, however often they come."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from ormsgpack import Ext, packb

from soma_core.client.calls import Call
from soma_core.client.connection import Connection
from soma_core.engine.inline import InlineOptions, InlineTransport
from soma_core.errors import ChannelClosed, ProtocolError, RemoteError
from soma_core.protocol.commands import Forward
from soma_core.transport import Channel, Dialect, Message
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import unpack_map

ARRAY = Ext(1, packb([0, "float64", [2]]))


def forward(**options):
    return Call(Forward, {"cmd": "FORWARD", "node_id": "a"}, **options)


class Answers(Channel):
    """A worker that answers each command with the same messages, but for the id."""

    closed = False

    def __init__(self, *replies):
        self._replies = replies
        self._waiting = deque()

    def send(self, message, timeout=None):
        command = unpack_map(message.header)
        for fields in self._replies:
            header = packb({**fields, "id": command["id"]})
            self._waiting.append(Message(header, [bytearray(np.arange(2.0).tobytes())]))

    def receive(self, timeout=None):
        if not self._waiting:
            raise ChannelClosed("it says nothing more")
        return self._waiting.popleft()

    def close(self):
        self.closed = True


def ask_often(*replies, **options):
    """What the last of several calls returns; all must end alike."""
    conversation = Connection(InlineTransport(InlineOptions()), Answers(*replies), Pickles())
    for _ in range(5):
        reply = conversation.ask(forward(timeout=5.0, **options))
    return reply


def test_a_result_that_recurs_is_an_array_of_its_own():
    conversation = Connection(
        InlineTransport(InlineOptions()), Answers({"ok": True, "result": ARRAY}), Pickles()
    )
    results = [conversation.ask(forward(timeout=5.0)).result for _ in range(5)]
    for result in results:
        assert result.tolist() == [0.0, 1.0]
        result[:] = 7.0


def test_an_error_whose_text_is_an_array_is_an_error():
    conversation = Connection(
        InlineTransport(InlineOptions()),
        Answers({"ok": False, "error": ARRAY, "code": "filter_failed"}),
        Pickles(),
    )
    for _ in range(5):
        with pytest.raises(RemoteError):
            conversation.ask(forward(timeout=5.0))


def test_a_report_that_is_an_array_reaches_the_callback_each_time():
    seen = []
    event = {"event": "progress", "cmd": "FORWARD", "data": ARRAY}
    ask_often(event, {"ok": True, "result": 1}, progress=seen.append)
    assert [report.tolist() for report in seen] == [[0.0, 1.0]] * 5


class LateAnswers(Answers):
    """A worker whose answers are there at the second look."""

    looked = False

    def receive(self, timeout=None):
        if not self.looked:
            self.looked = True
            raise TimeoutError
        return super().receive(timeout)


@pytest.mark.parametrize("made", ["for the queue", "just now"])
def test_only_what_comes_after_sending_counts_as_a_stall(made):
    channel = LateAnswers({"ok": True, "result": 1})
    conversation = Connection(InlineTransport(InlineOptions()), channel, Pickles())
    call = forward(stall_timeout=30.0)
    if made == "for the queue":
        call.started -= 3600.0  # it waited for other calls, or for a restart
    assert conversation.ask(call).result == 1


class LineAnswers(Answers):
    """A worker that answers with lines, or whose filters print some in the place of frames."""

    def send(self, message, timeout=None):
        self._waiting.extend(Message(line, (), Dialect.LINE) for line in self._replies)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"ok":false,"error":"too long","code":"malformed"}', "too long"),
        (b'{"level":"info"}', "reply to FORWARD of node 'a' is not one"),
        (b'{"ok":false}', "no reason"),
        (b"[1, 2]", r"got list: \[1, 2\]"),
    ],
)
def test_a_line_that_is_no_result_is_an_error_of_ours(line, said):
    connection = Connection(InlineTransport(InlineOptions()), LineAnswers(line), Pickles())
    with pytest.raises((RemoteError, ProtocolError), match=said):
        connection.ask(forward(timeout=5.0))
