"""Conversation: the host's side of a channel as a state machine: commands, replies, how it ended.

It does no I/O and never waits. A driver sends what :meth:`Conversation.begin` made, hands each
message that comes to :meth:`~Conversation.take`, does what the exchange says is due, and says what
became of the worker.
"""

from __future__ import annotations

import os
import reprlib
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import ValidationError

from soma_core.channel.contract import ExitStatus
from soma_core.client.calls import Call
from soma_core.client.exchange import Exchange
from soma_core.client.log_levels import MARK, log_levels
from soma_core.client.oom import MemoryPressure
from soma_core.errors import (
    ChannelClosed,
    DeadlineExceeded,
    ErrorCode,
    IncompatibleWorker,
    ProtocolError,
    RemoteError,
    SomaError,
    TransportError,
    WorkerDied,
)
from soma_core.models.validation_errors import describe
from soma_core.plugins.manager import CallObservers
from soma_core.protocol.commands import Interrupt
from soma_core.protocol.dialects import DialectCodec, FrameCodec, LineCodec, read_fields
from soma_core.protocol.replies import Event
from soma_core.wire.message import Dialect, Message
from soma_core.wire.pickles import Pickles

_OF_INTERRUPTS = 0  # the id of messages that interrupt: less than that of any command


class Conversation:
    """What is said over one channel: one command at a time, and its reply.

    Args:
        pickles: Whether pickles are made and read.
        grace: Seconds that an interrupted command may take to end.
        observers: The plugins that observe calls, if there are any.
        tells_levels: Whether the worker is told from which levels on this program logs.
        clock: Gives the time in seconds; the deadlines of calls are of the same clock.

    Attributes:
        exchange: The command that is under way, or None.
        last_id: The id of the last command.
        plugins_said: What plugins of the worker said last, by plugin.
        ended: How the worker ended, once it has.
        closed: Whether this side has closed it.
        interrupts_by_message: Whether the worker takes messages that interrupt.
        tells_levels: As given; whether the worker takes them.
    """

    def __init__(
        self,
        pickles: Pickles,
        *,
        grace: float,
        observers: CallObservers | None = None,
        tells_levels: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._frames: DialectCodec = FrameCodec(pickles)
        self._lines: DialectCodec = LineCodec(pickles)
        self._grace = grace
        self._observers = observers
        self._memory = MemoryPressure()
        self._owner = os.getpid()
        self._fate = ""
        self.clock = clock
        self.exchange: Exchange | None = None
        self.last_id = 0
        self._unsent = 0
        self.plugins_said: dict[str, Any] = {}
        self.ended: WorkerDied | None = None
        self.closed = False
        self.interrupts_by_message = False
        self.tells_levels = tells_levels
        self._levels: dict[str, int] | None = None

    @property
    def belongs_to_this_process(self) -> bool:
        """Whether this is the process that started it, and not one forked from that."""
        return os.getpid() == self._owner

    @property
    def is_observed(self) -> bool:
        """Whether a plugin observes calls."""
        return self._observers is not None

    @property
    def running(self) -> tuple[str, str | None, float] | None:
        """The command that runs, its node, and since when (``time.monotonic``); or None."""
        exchange = self.exchange
        if exchange is None:
            return None
        return exchange.call.cmd, exchange.call.node_id, exchange.call.started

    def node_that_runs(self) -> str | None:
        """The node that the command which runs is about; None if none runs, or it is about none."""
        exchange = self.exchange
        return None if exchange is None else exchange.call.node_id

    @property
    def commands_sent(self) -> int:
        """How many commands the worker may have been sent."""
        return self.last_id - self._unsent

    def check_owner(self) -> None:
        """Make sure that this is the process that started it.

        Raises:
            TransportError: This process was forked from that.
        """
        if not self.belongs_to_this_process:
            raise TransportError(
                "this Worker belongs to the process that this one was forked from; connect anew"
            )

    def check_usable(self) -> None:
        """Make sure that a command can be sent.

        Raises:
            TransportError: This process was forked from the one that started the worker.
            ChannelClosed: This side has closed it.
            WorkerDied: The worker has ended.
        """
        self.check_owner()
        if self.closed:
            raise ChannelClosed("the worker was closed")
        if self.ended is not None:
            raise WorkerDied(str(self.ended), sent=False, **self.ended.facts)

    def begin(self, call: Call) -> Exchange:
        """Begin an exchange; its message is to be sent.

        Raises:
            TransportError: As :meth:`check_usable`.
            ProtocolError: The data cannot be sent.
        """
        self.last_id += 1
        if self._observers is not None:
            self._observers.starting(call)
        if self.closed or self.ended is not None or os.getpid() != self._owner:
            self.check_usable()
        exchange = Exchange(call, self.last_id, self._grace, self.clock())
        fields = {**call.fields, "id": self.last_id}
        if self._levels is not log_levels.latest or MARK not in log_levels.found_out:
            self._tell_levels(fields)
        exchange.message = self._frames.write(fields, call.model)
        self.exchange = exchange
        return exchange

    def _tell_levels(self, fields: dict[str, Any]) -> None:
        """Tell the worker from which levels on this program logs, if that has changed."""
        latest = log_levels.look()
        if self._levels is not latest:
            self._levels = latest
            if self.tells_levels:
                fields["log_levels"] = latest

    def sent(self, exchange: Exchange) -> None:
        """Its message is on its way, and its reply can be waited for."""
        if self._observers is not None:
            self._observers.sent(exchange.call)

    def interruption(self, exchange: Exchange) -> Message | None:
        """The message that interrupts a command; None if the worker does not take such messages."""
        if not self.interrupts_by_message:
            return None
        fields = {"cmd": "INTERRUPT", "command": exchange.message_id, "id": _OF_INTERRUPTS}
        return self._frames.write(fields, Interrupt)

    def take(self, message: Message) -> Event | None:
        """A message has come; returns an event of the command, which is for the caller.

        Raises:
            ProtocolError: It is the reply, and cannot be read; or it is of nobody, and the
                channel is of no use any more.
        """
        exchange = self.exchange
        assert exchange is not None
        if exchange.given_up:
            self._take_late(exchange, message)
            return None
        codec = self._frames if message.dialect is Dialect.FRAME else self._lines
        try:
            came = codec.read(message, self._validated)
        except ValidationError as error:
            exchange.over = exchange.answered = True
            raise _not_a_reply(exchange.call, error) from None
        except ProtocolError:
            raise
        except BaseException:  # of a signal handler: the message has come all the same
            self._take_late(exchange, message)
            raise
        if type(came) is Event:
            if came.event == "progress":
                exchange.progress(self.clock())
            return came
        if type(came) is not _Stray:
            exchange.reply = came
            exchange.over = exchange.answered = True
        elif came.is_of_nobody:
            exchange.over = True
            raise ProtocolError(
                ErrorCode.MALFORMED,
                f"the reply has id {reprlib.repr(came.id)}, the command {exchange.message_id}; the "
                "transport mixed up messages, and the channel was closed",
            )
        return None

    def _validated(self, fields: dict[str, Any]) -> Any:
        """What came while a command runs: its reply, an event of it, or a stray."""
        exchange = self.exchange
        assert exchange is not None
        replied_to = fields.get("id", exchange.message_id)
        if type(replied_to) is not int or replied_to != exchange.message_id:  # as an array may be
            return _stray(replied_to, exchange.message_id, fields)
        if fields.get("ok") is True:
            return exchange.call.reply.__pydantic_validator__.validate_python(fields)
        if "event" in fields:
            return Event.__pydantic_validator__.validate_python(fields)
        if "ok" not in fields:
            raise ProtocolError(
                ErrorCode.MALFORMED,
                f"the worker's reply to {exchange.call} is not one: {reprlib.repr(fields)}; is "
                "it a soma worker?",
            )
        return _Failure(fields)

    def _take_late(self, exchange: Exchange, message: Message) -> None:
        """Look whether a message is the reply that nobody waits for any more."""
        try:
            fields = read_fields(message)
        except MemoryError:  # so it is large, and no event
            fields = {"id": exchange.message_id, "executed": True}
        replied_to = fields.get("id", exchange.message_id)
        if "event" in fields or type(replied_to) is not int:
            return
        if replied_to == exchange.message_id:
            exchange.over = exchange.answered = True
            call = exchange.call
            executed = fields.get("ok") is True or fields.get("executed") is True
            if call.when_unclaimed is not None and executed:
                call.when_unclaimed(call)

    def result(self, exchange: Exchange) -> Any:
        """The reply of an exchange that is over.

        Raises:
            DeadlineExceeded: Its time has passed; the worker gave it up, or was ended.
            RemoteError: The worker refused it, or the filter failed.
        """
        if exchange.excess is not None:
            raise self._expired(exchange)
        reply = exchange.reply
        if type(reply) is _Failure:
            call = exchange.call
            if call.when_unclaimed is not None and reply.fields.get("executed") is True:
                call.when_unclaimed(call)
            error = _error_of(reply.fields)
            if isinstance(error, RemoteError) and error.plugins:
                self.plugins_said = {**self.plugins_said, **error.plugins}
            raise error
        exchange.call.executed = True
        if reply.meta is not None:
            self.plugins_said = {**self.plugins_said, **reply.meta}
        if self._observers is not None:
            self._observers.finished(exchange.call, reply, None)
        return reply

    def failed(self, call: Call, error: BaseException) -> None:
        """A call that has had its turn raises an error."""
        self._levels = None  # the worker may not have read what it was told
        if self.exchange is None:
            self._unsent += 1
        if self._observers is not None:
            self._observers.finished(call, None, error)

    def _expired(self, exchange: Exchange) -> DeadlineExceeded:
        outcome = (
            "the worker gave the command up and can be used on"
            if exchange.answered
            else f"the worker {self._fate}"
        )
        text = f"{exchange.call} {exchange.excess}; {outcome}"
        return DeadlineExceeded(text, worker_survived=exchange.answered)

    def stopped(
        self, exchange: Exchange, status: ExitStatus | None, *, by_itself: bool = False
    ) -> None:
        """The worker of a command that was given up is gone.

        Args:
            exchange: The command.
            status: How the worker ended; None if it serves others too, or nobody knows.
            by_itself: Whether it closed the channel before the driver ended it.
        """
        call = exchange.call
        exchange.over = True
        if by_itself:
            how = "closed the channel" if status is None else str(status)
            self._fate = f"{how} when it was interrupted"
            text = f"the worker {how} when {call} was interrupted"
        else:
            how = "given up" if status is None else "ended"
            self._fate = f"did not give it up when interrupted, and was {how}"
            text = f"the worker was {how} because {call} did not stop when interrupted"
        self.ended = WorkerDied(
            text,
            exit_code=status.code if by_itself and status else None,
            signal=status.signal_name if by_itself and status else None,
            command=call.cmd,
            node_id=call.node_id,
        )

    def died(
        self, exchange: Exchange, error: ChannelClosed, status: ExitStatus | None, stderr: str
    ) -> WorkerDied:
        """The channel closed under a command; returns what to raise."""
        call = exchange.call
        exchange.over = True
        how = str(status) if status is not None else f"closed the channel ({error})"
        killed = status is not None and status.signal == signal.SIGKILL
        hint = self._memory.hint() if killed else ""
        tail = f"; the end of its stderr:\n{stderr}" if stderr else ""
        when = f"during {call}" if exchange.sent else f"before {call} was sent"
        self.ended = WorkerDied(
            f"the worker {how} {when}{hint}{tail}",
            exit_code=status.code if status else None,
            signal=status.signal_name if status else None,
            stderr=stderr,
            command=call.cmd,
            node_id=call.node_id,
            sent=exchange.sent,
        )
        return self.ended


class _Failure(NamedTuple):
    """A reply that says why the command failed, whatever it holds."""

    fields: dict[str, Any]
    meta: None = None


class _Stray(NamedTuple):
    """A message that belongs to another command."""

    id: Any
    is_of_nobody: bool


def _stray(replied_to: Any, message_id: int, fields: dict[str, Any]) -> _Stray:
    late = type(replied_to) is int and _OF_INTERRUPTS <= replied_to < message_id
    return _Stray(replied_to, is_of_nobody=not late and "event" not in fields)


def _error_of(fields: dict[str, Any]) -> SomaError:
    error = RemoteError.from_reply(fields)
    if error.code == ErrorCode.INCOMPATIBLE:
        return IncompatibleWorker(str(error))
    return error


def _not_a_reply(call: Call, error: ValidationError) -> ProtocolError:
    return ProtocolError(
        ErrorCode.MALFORMED,
        f"the worker's reply to {call} is not one: {describe(error)}; is it a soma worker?",
    )
