"""The rules of a conversation, with a clock of its own and without any I/O."""

from __future__ import annotations

import pytest
from ormsgpack import packb

from soma_core.channel.contract import ExitStatus
from soma_core.channel.deadline import Deadline
from soma_core.client.calls import Call
from soma_core.client.conversation import Conversation
from soma_core.client.exchange import Due
from soma_core.errors import (
    ChannelClosed,
    DeadlineExceeded,
    ProtocolError,
    RemoteError,
    WorkerDied,
)
from soma_core.protocol.commands import Forward
from soma_core.wire.message import Dialect, Message
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import unpack_map


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def conversation(clock):
    return Conversation(Pickles(), grace=2.0, clock=clock)


def forward(clock, *, timeout=None, stall_timeout=None, progress=None):
    call = Call(
        Forward,
        {"cmd": "FORWARD", "node_id": "a"},
        timeout,
        stall_timeout=stall_timeout,
        progress=progress,
    )
    call.deadline = Deadline(None if timeout is None else clock.now + timeout)
    return call


def reply(message_id, **fields):
    return Message(packb({"ok": True, "id": message_id, **fields}), [])


def event(message_id, name="progress", **data):
    fields = {"event": name, "cmd": "FORWARD", "id": message_id, "data": data}
    return Message(packb(fields), [])


def pass_time(clock, exchange):
    """Wait as long as the exchange says, and return what is due then."""
    clock.now += exchange.wait(clock.now)
    return exchange.due(clock.now)


def test_a_command_gets_an_id_and_its_reply_ends_the_exchange(conversation, clock):
    exchange = conversation.begin(forward(clock))
    sent = unpack_map(exchange.message.header)
    assert sent == {"cmd": "FORWARD", "node_id": "a", "id": 1}
    assert conversation.take(reply(1, result=5)) is None
    assert exchange.over
    assert conversation.result(exchange).result == 5


def test_each_command_has_an_id_of_its_own(conversation, clock):
    for message_id in (1, 2, 3):
        exchange = conversation.begin(forward(clock))
        assert exchange.message_id == message_id
        conversation.take(reply(message_id, result=None))


def test_a_line_is_a_reply_too(conversation, clock):
    exchange = conversation.begin(forward(clock))
    conversation.take(Message(b'{"ok":true,"id":1,"result":5}', (), Dialect.LINE))
    assert conversation.result(exchange).result == 5


def test_an_error_reply_is_raised(conversation, clock):
    exchange = conversation.begin(forward(clock))
    failure = {"ok": False, "id": 1, "error": "no", "code": "filter_failed"}
    conversation.take(Message(packb(failure), []))
    with pytest.raises(RemoteError, match="no"):
        conversation.result(exchange)


def test_an_event_is_handed_out_and_the_exchange_goes_on(conversation, clock):
    exchange = conversation.begin(forward(clock))
    came = conversation.take(event(1, step=3))
    assert came.data == {"step": 3}
    assert not exchange.over


def test_a_reply_to_an_earlier_command_is_skipped(conversation, clock):
    conversation.begin(forward(clock))
    conversation.take(reply(1, result=1))
    exchange = conversation.begin(forward(clock))
    assert conversation.take(reply(1, result="late")) is None
    assert not exchange.over
    conversation.take(reply(2, result=2))
    assert conversation.result(exchange).result == 2


@pytest.mark.parametrize("message_id", [2, -1, "x"])
def test_a_reply_to_no_command_at_all_is_an_error(conversation, clock, message_id):
    exchange = conversation.begin(forward(clock))
    with pytest.raises(ProtocolError, match="mixed up"):
        conversation.take(reply(message_id, result=1))
    assert exchange.over
    assert not exchange.answered


def test_what_is_no_reply_is_an_error_and_the_conversation_goes_on(conversation, clock):
    exchange = conversation.begin(forward(clock))
    with pytest.raises(ProtocolError, match="is it a soma worker"):
        conversation.take(reply(1, meta=5))
    assert exchange.answered


def test_while_nothing_comes_the_process_is_looked_at_four_times_a_second(conversation, clock):
    exchange = conversation.begin(forward(clock))
    moments = []
    for _ in range(4):
        assert pass_time(clock, exchange) == [Due.LOOK]
        exchange.looked(False)
        moments.append(clock.now - 100.0)
    assert moments == [0.25, 0.5, 0.75, 1.0]


def test_nothing_is_due_before_its_time(conversation, clock):
    exchange = conversation.begin(forward(clock))
    clock.now += 0.2
    assert exchange.due(clock.now) == []
    assert exchange.wait(clock.now) == pytest.approx(0.05)


def test_a_dead_process_may_have_sent_its_reply_before(conversation, clock):
    exchange = conversation.begin(forward(clock))
    exchange.looked(True)
    conversation.take(reply(1, result=1))
    assert exchange.over


def test_a_dead_process_that_says_nothing_more_closes_the_channel(conversation, clock):
    exchange = conversation.begin(forward(clock))
    exchange.looked(True)
    with pytest.raises(ChannelClosed):
        exchange.looked(True)


def test_a_deadline_interrupts_every_fifth_of_a_second_until_the_reply(conversation, clock):
    exchange = conversation.begin(forward(clock, timeout=0.1))
    interrupts = []
    for _ in range(3):
        assert pass_time(clock, exchange) == [Due.INTERRUPT]
        interrupts.append(round(clock.now - 100.0, 3))
    assert interrupts == [0.1, 0.3, 0.5]
    conversation.take(reply(1, result="too late"))
    assert exchange.due(clock.now) == []
    with pytest.raises(DeadlineExceeded, match=r"within 0\.1 s; the worker gave") as caught:
        conversation.result(exchange)
    assert caught.value.worker_survived


def test_a_worker_that_does_not_stop_is_ended_after_the_grace(conversation, clock):
    exchange = conversation.begin(forward(clock, timeout=0.1))
    due = []
    while Due.END not in due:
        due = pass_time(clock, exchange)
    assert clock.now == pytest.approx(102.1)
    conversation.stopped(exchange, ExitStatus(code=0))
    with pytest.raises(DeadlineExceeded, match="was ended") as caught:
        conversation.result(exchange)
    assert not caught.value.worker_survived
    with pytest.raises(WorkerDied, match="did not stop when interrupted"):
        conversation.begin(forward(clock))


def test_a_worker_that_others_share_is_given_up_and_not_ended(conversation, clock):
    exchange = conversation.begin(forward(clock, timeout=0.0))
    exchange.due(clock.now)
    conversation.stopped(exchange, None)
    with pytest.raises(DeadlineExceeded, match="was given up"):
        conversation.result(exchange)


def test_events_do_not_count_as_the_end_of_a_command_that_is_given_up(conversation, clock):
    exchange = conversation.begin(forward(clock, timeout=0.0))
    exchange.due(clock.now)
    assert conversation.take(event(1)) is None
    assert not exchange.over


def test_an_earlier_reply_does_not_count_as_the_end_either(conversation, clock):
    conversation.begin(forward(clock))
    conversation.take(reply(1, result=1))
    exchange = conversation.begin(forward(clock, timeout=0.0))
    exchange.due(clock.now)
    conversation.take(reply(1, result=1))
    assert not exchange.over
    conversation.take(reply(2, result=2))
    assert exchange.over


def test_progress_puts_off_a_stall_and_nothing_else_does(conversation, clock):
    exchange = conversation.begin(forward(clock, stall_timeout=1.0))
    clock.now += 0.9
    conversation.take(event(1))
    conversation.take(event(1, "log"))
    clock.now += 0.9
    assert Due.INTERRUPT not in exchange.due(clock.now)
    conversation.take(event(1, "log"))
    clock.now += 0.2
    assert exchange.due(clock.now) == [Due.INTERRUPT]
    conversation.take(reply(1, result=1))
    with pytest.raises(DeadlineExceeded, match="made no progress for 1 s"):
        conversation.result(exchange)


def test_an_interrupt_that_somebody_asked_for_is_repeated(conversation, clock):
    exchange = conversation.begin(forward(clock))
    exchange.interrupted = True
    assert pass_time(clock, exchange) == [Due.INTERRUPT, Due.LOOK]
    assert pass_time(clock, exchange) == [Due.INTERRUPT, Due.LOOK]


def test_giving_up_twice_does_not_prolong_the_grace(conversation, clock):
    exchange = conversation.begin(forward(clock))
    exchange.give_up(clock.now)
    clock.now += 1.9
    exchange.give_up(clock.now)
    clock.now += 0.1
    assert exchange.due(clock.now) == [Due.END]


@pytest.mark.parametrize(("sent", "when"), [(True, "during"), (False, "before")])
def test_a_death_says_how_when_and_what_was_printed(conversation, clock, sent, when):
    exchange = conversation.begin(forward(clock))
    exchange.sent = sent
    closed = ChannelClosed("closed")
    death = conversation.died(exchange, closed, ExitStatus(signal=11), "last words")
    assert death.sent is sent
    assert death.signal == "SIGSEGV"
    for part in (f"{when} FORWARD of node 'a'", "last words", "SIGSEGV"):
        assert part in str(death)
    with pytest.raises(WorkerDied) as caught:
        conversation.begin(forward(clock))
    assert not caught.value.sent


def test_nothing_is_sent_once_it_is_closed(conversation, clock):
    conversation.closed = True
    with pytest.raises(ChannelClosed):
        conversation.begin(forward(clock))
