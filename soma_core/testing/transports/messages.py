"""Clauses of messages: order, boundaries, buffers, dialects, waiting, commands and values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from soma_core.client.worker import Worker
from soma_core.errors import ErrorCode
from soma_core.testing.clauses import covers
from soma_core.testing.filters import Echo
from soma_core.testing.samples import SIZES, VALUES, difference
from soma_core.testing.suite import within
from soma_core.testing.transports.base import TransportSuite
from soma_core.testing.wire import Wire
from soma_core.wire.message import Dialect, Message

_MIB = 1 << 20
COMMANDS: dict[str, tuple[dict[str, Any], bool]] = {  # the fields, and whether it succeeds
    "LIST": ({}, True),
    "FIT": ({"node_id": "mean", "data": np.arange(4.0)}, True),
    "PARTIAL_FIT": ({"node_id": "mean", "data": np.arange(4.0)}, False),
    "FORWARD": ({"node_id": "mean", "data": np.arange(4.0)}, True),
    "CALL_METHOD": ({"node_id": "mean", "method": "predict", "data": np.arange(4.0)}, False),
    "COMPOSITE_FORWARD": ({"node_ids": ["mean", "echo"], "data": np.arange(4.0)}, True),
    "COMPOSITE_FIT": ({"node_ids": ["mean", "echo"], "data": np.arange(4.0)}, True),
    "BATCHED_FIT": ({"node_ids": ["mean"], "data": np.arange(4.0), "batch_size": 3}, True),
    "CONTINUE_FIT": ({"node_ids": ["mean"], "fit_id": "of no fit"}, False),
    "GET_STATE": ({"node_id": "mean", "format": "value"}, True),
    "SET_STATE": ({"node_id": "mean", "state_b64": "e30=", "format": "value"}, True),
    "GET_GRADIENTS": ({"node_id": "mean"}, False),
    "APPLY_GRADIENTS": ({"node_id": "mean", "gradients_b64": "AAAA"}, False),
    "INTERRUPT": ({"command": "of no command"}, True),
    "PING": ({}, True),
}
"""Commands with their fields, and whether they succeed."""


class MessageClauses(TransportSuite):
    """What is carried arrives whole, in order, and as what it was."""

    # Order and boundaries

    @covers("order.commands")
    def test_commands_are_answered_in_the_order_in_which_they_were_sent(self, wire: Wire) -> None:
        for number in range(50):
            wire.send("FORWARD", node_id="echo", data=number, id=number)
        replies = [wire.fields() for _ in range(50)]
        assert [reply["id"] for reply in replies] == list(range(50))
        assert [reply["result"] for reply in replies] == list(range(50))

    @covers("order.events")
    def test_the_events_of_a_command_come_before_its_reply(self, wire: Wire) -> None:
        wire.send("FORWARD", node_id="actions", data=["report", 3], events=True, id="e")
        messages = [wire.fields() for _ in range(4)]
        assert [message.get("event") for message in messages] == ["progress"] * 3 + [None]
        assert [message["data"]["number"] for message in messages[:3]] == [0, 1, 2]
        assert messages[3]["result"] == "reported"
        assert wire.in_step()

    @covers("boundaries.buffers")
    def test_a_buffer_of_any_size_arrives_whole(self, wire: Wire) -> None:
        for size in SIZES:
            data = _pattern(size)
            reply = wire.ask("FORWARD", node_id="echo", data=data, id=size)
            assert reply["id"] == size
            assert np.array_equal(reply["result"], data), f"a buffer of {size} bytes"

    @covers("boundaries.headers")
    def test_a_header_of_any_size_arrives_whole(self, wire: Wire) -> None:
        for dialect in self._dialects():
            for size in SIZES:
                reply = wire.ask("FORWARD", dialect, node_id="echo", data="x" * size, id=size)
                assert reply["id"] == size
                assert len(reply["result"]) == size, f"a header with a text of {size} bytes"

    @covers("boundaries.many-buffers")
    def test_many_buffers_in_one_message_stay_apart(self, wire: Wire) -> None:
        data = [_pattern(size % 7 * size) for size in range(300)]
        result = wire.ask("FORWARD", node_id="echo", data=data)["result"]
        assert [len(array) for array in result] == [len(array) for array in data]
        assert all(np.array_equal(*pair) for pair in zip(result, data, strict=True))

    @covers("boundaries.content")
    def test_bytes_that_look_like_the_edge_of_a_message_are_content(self, wire: Wire) -> None:
        tricky = b'\x93SOMA\x01\n{"cmd":"SHUTDOWN"}\n\0\r\n\xff'
        array = np.frombuffer(tricky, np.uint8)
        text = '\n{"cmd":"SHUTDOWN"}\n\u2028'
        for data in (tricky, array, tricky * 3000, [tricky, b"\n"], text):
            for dialect in self._dialects():
                reply = wire.ask("FORWARD", dialect, node_id="echo", data=data)
                result = reply["result"]
                assert not difference(result, data)
        assert wire.in_step()

    @covers("boundaries.malformed")
    def test_a_message_that_is_no_command_gets_one_error_reply(self, wire: Wire) -> None:
        for header in (b"hello", b"[1]", b"{}", b'{"cmd":"NO_SUCH"}', b'{"cmd":"PING","x":1}'):
            wire.channel.send(Message(header), self.patience)
            reply = wire.fields()
            assert reply["ok"] is False
            assert reply["code"] in set(ErrorCode)
        assert wire.in_step()

    # Buffers

    @covers("buffers.writable")
    def test_the_buffers_of_a_received_message_are_writable(self, wire: Wire) -> None:
        for size in (1, 1000, _MIB):
            wire.send("FORWARD", node_id="echo", data=_pattern(size))
            message = wire.receive()
            assert message.buffers
            for buffer in message.buffers:
                view = memoryview(buffer)
                assert not view.readonly, f"a buffer of {view.nbytes} bytes"
        reply = wire.ask("FORWARD", node_id="actions", data=["overwrite", _pattern(_MIB)])
        assert reply.get("result") is True, reply

    @covers("buffers.apart")
    def test_neither_side_sees_what_the_other_does_to_its_memory(self, wire: Wire) -> None:
        for size in (1000, _MIB):
            data = _pattern(size)
            wire.send("FORWARD", node_id="echo", data=data)
            data[...] = 0
            assert np.array_equal(wire.fields()["result"], _pattern(size)), "kept after send()"
            data = _pattern(size)
            wire.ask("FORWARD", node_id="actions", data=["overwrite", data])
            assert np.array_equal(data, _pattern(size)), "the filter wrote into the host's array"

    # Dialects

    @covers("dialects.frames")
    def test_a_frame_is_answered_by_a_frame(self, wire: Wire) -> None:
        wire.send("PING")
        assert wire.receive().dialect is Dialect.FRAME

    @covers("dialects.lines")
    def test_a_line_is_answered_by_a_line(self, wire: Wire) -> None:
        for dialect in (Dialect.LINE, Dialect.FRAME, Dialect.LINE, Dialect.LINE, Dialect.FRAME):
            wire.send("PING", dialect)
            reply = wire.receive()
            assert reply.dialect is Dialect.LINE or dialect is not Dialect.LINE

    # Timeouts

    @covers("timeouts.receive")
    def test_receive_raises_timeout_error_when_its_time_is_over(self, wire: Wire) -> None:
        for timeout in (0.0, 0.1):
            with pytest.raises(TimeoutError):
                within(self._prompt, lambda t=timeout: wire.receive(t), f"receive({timeout})")  # type: ignore[misc]
        assert wire.in_step()

    @covers("timeouts.reuse")
    def test_a_reply_that_comes_after_a_timeout_is_received_later(self, wire: Wire) -> None:
        wire.send("FORWARD", node_id="actions", data=["sleep", 1.0], id="late")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                wire.receive(0.05)
        reply = wire.fields()
        assert (reply["id"], reply["result"]) == ("late", "slept")
        assert wire.in_step()

    # Commands and values

    @covers("commands.all")
    def test_every_command_gets_its_reply(self, wire: Wire) -> None:
        for dialect in self._dialects():
            for cmd, (fields, succeeds) in COMMANDS.items():
                reply = wire.ask(cmd, dialect, id=cmd, **fields)
                assert (reply["id"], reply["ok"]) == (cmd, succeeds), reply
            wire.load(other=Echo())
            assert wire.ask("UNLOAD", dialect, node_ids=["other"])["ok"] is True

    @covers("values.all")
    def test_every_kind_of_value_arrives_as_what_was_sent(self, worker: Worker) -> None:
        wrong = {
            name: text
            for name, value in VALUES.items()
            if (text := difference(worker.forward("echo", value), value))
        }
        assert wrong == {}


def _pattern(size: int) -> np.ndarray[Any, Any]:
    return np.arange(size, dtype="<u4").astype("u1")
