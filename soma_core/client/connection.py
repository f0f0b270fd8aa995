"""Connection: one command and its reply at a time, with deadlines, interrupts and deaths."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from soma_core.channel.contract import Channel, ExitStatus, Transport
from soma_core.channel.deadline import Deadline
from soma_core.client.calls import Call, Flight
from soma_core.client.oom import MemoryPressure
from soma_core.client.records import hand_over
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
from soma_core.protocol.dialects import DialectCodec, FrameCodec, LineCodec, read_fields
from soma_core.protocol.replies import Event, Reply
from soma_core.wire.message import Dialect, Message
from soma_core.wire.pickles import Pickles

__all__ = ["INTERRUPT_GRACE", "Connection"]

Explain = Callable[[SomaError, int], None]

INTERRUPT_GRACE = 2.0
"""Seconds that an interrupted command may take to end, before the worker is ended."""

_REPEAT = 0.2  # seconds between interrupts
_LAST_BYTES = 0.2  # seconds in which a worker is seen to be dead that sent half a message
_DEATH = 1.0  # seconds to wait for the exit status of a worker whose channel closed


class Connection:
    """The host's side of a channel.

    Args:
        transport: Started already; asked about the worker's process when something goes wrong.
        channel: What ``transport.start`` returned.
        pickles: Whether pickles are made and read.
        explain: Given the error of a call and the id of its command, before it is raised.
        grace: Seconds that an interrupted command may take to end, before the worker is ended.

    Attributes:
        plugins_said: What plugins of the worker said last, by plugin.
        ended: How the worker ended, once it has.
        closed: Whether ``close`` was called.
    """

    def __init__(
        self,
        transport: Transport,
        channel: Channel,
        pickles: Pickles,
        explain: Explain | None = None,
        *,
        grace: float = INTERRUPT_GRACE,
    ) -> None:
        self._transport = transport
        self._channel = channel
        self._frames: DialectCodec = FrameCodec(pickles)
        self._lines: DialectCodec = LineCodec(pickles)
        self._explain = explain or _no_explanation
        self._grace = grace
        self._turn = threading.Lock()
        self._flight = threading.Lock()
        self._turn_of: int | None = None
        self._in_flight: Flight | None = None
        self._interrupted = False
        self._owner = os.getpid()
        self._last_id = 0
        self._memory = MemoryPressure()
        self.plugins_said: dict[str, Any] = {}
        self._fate = "ended"
        self.ended: WorkerDied | None = None
        self.closed = False

    @property
    def running(self) -> tuple[str, str | None, float] | None:
        """The command that runs, its node, and since when (``time.monotonic``); or None."""
        flight = self._in_flight
        if flight is None:
            return None
        return flight.call.cmd, flight.call.node_id, flight.call.started

    def ask(self, call: Call) -> Any:
        """Send a command and wait for its reply.

        Raises:
            DeadlineExceeded: It did not end in time.
            WorkerDied: The worker's process ended.
            ChannelClosed: ``close`` was called.
            RemoteError: The worker refused the command, or the filter failed.
            ProtocolError: The data cannot be sent.
        """
        if not self._turn.acquire(blocking=False):
            self._wait_for_turn(call)
        self._turn_of = threading.get_ident()
        self._last_id += 1
        try:
            if self.closed or self.ended is not None or os.getpid() != self._owner:
                self._check_usable()
            reply = self._exchange(Flight(call, self._last_id))
            if type(reply) is _Failure:
                raise _error_of(reply.fields)
        except SomaError as error:
            self._explain(error, self._last_id)
            raise
        finally:
            self._turn_of = None
            self._turn.release()
        if reply.meta is not None:
            self.plugins_said = {**self.plugins_said, **reply.meta}
        return reply

    def interrupt(self) -> None:
        """Interrupt the command that runs, if one does."""
        with self._flight:
            if self._in_flight is not None:
                self._interrupted = True
                self._transport.interrupt()

    def close(self) -> None:
        """End it; a call that waits raises ChannelClosed."""
        self.closed = True
        self._channel.close()

    def _wait_for_turn(self, call: Call) -> None:
        self._check_usable()
        if self._turn_of == threading.get_ident():
            raise RuntimeError(
                f"{call.cmd} was called while another call of this thread waits for the same "
                "worker, from its progress callback or a signal handler; it would wait for itself. "
                "Call from another thread, or after that call"
            )
        left = call.deadline.left()
        patience = -1 if left is None else min(left, threading.TIMEOUT_MAX)
        if not self._turn.acquire(timeout=patience):
            raise DeadlineExceeded(
                f"{call.cmd} waited {call.timeout:g} s for other calls on this worker and was "
                "not sent",
                worker_survived=True,
            )

    @property
    def belongs_to_this_process(self) -> bool:
        """Whether this is the process that started it, and not one forked from that."""
        return os.getpid() == self._owner

    def _check_usable(self) -> None:
        if not self.belongs_to_this_process:
            raise TransportError(
                "this Worker belongs to the process that this one was forked from; connect anew"
            )
        if self.closed:
            raise ChannelClosed("the worker was closed")
        if self.ended is not None:
            raise WorkerDied(str(self.ended), sent=False, **self.ended.facts)

    def _exchange(self, flight: Flight) -> Any:
        """Send a command and receive its reply; whatever happens, no reply is left behind."""
        call = flight.call
        fields = {**call.fields, "id": flight.message_id}
        message = self._frames.write(fields, call.model)
        self._interrupted = False
        self._in_flight = flight
        output = self._transport.output
        if output is not None:
            output.node_id = call.node_id
        try:
            try:
                self._channel.send(message, call.deadline.left())
            except TimeoutError:
                if not flight.over():
                    raise
                raise self._expire(flight) from None
            except ChannelClosed as error:
                flight.sent = error.sent
                raise
            return self._receive(flight)
        except ChannelClosed as error:
            raise self._death(flight, error) from None
        except BaseException:
            if not flight.settled:
                self._give_up(flight)
            raise
        finally:
            if output is not None:
                output.show()
                output.node_id = None
            with self._flight:
                self._in_flight = None

    def _receive(self, flight: Flight) -> Any:
        """The reply to a command, or the failure that came instead."""
        expected = _Expected(flight)
        while True:
            try:
                message = self._channel.receive(flight.next_wait())
                codec = self._frames if message.dialect is Dialect.FRAME else self._lines
                came = codec.read(message, expected)
            except TimeoutError:
                self._look_around(flight)
                continue
            except ProtocolError as error:
                if error.code is ErrorCode.MALFORMED and self._status_within(_LAST_BYTES):
                    raise ChannelClosed(str(error), sent=True) from None  # it died in mid-reply
                flight.settled = not self._channel.closed  # it came, and cannot be taken here
                raise
            except ValidationError as error:
                flight.settled = True
                raise _not_a_reply(flight.call, error) from None
            if type(came) is Event:
                self._take_event(flight, came)
            elif type(came) is not _Stray:
                flight.settled = True
                return came
            elif came.is_of_nobody:
                flight.settled = True
                raise self._mixed_up(flight, came)
            if flight.over():  # messages without end are no reason to wait without end
                raise self._expire(flight)

    def _take_event(self, flight: Flight, event: Event) -> None:
        data = {} if event.data is None else event.data
        if event.event != "progress":
            if self._transport.output is not None:
                self._transport.output.show(unfinished=False)  # what was printed before it
            hand_over(event.event, data, flight.call.node_id)
            return
        flight.progressed = time.monotonic()
        if flight.call.progress is not None:
            flight.call.progress(data)

    def _look_around(self, flight: Flight) -> None:
        """Nothing has come for a while: is the time over, the worker gone, or an interrupt due?

        Raises:
            DeadlineExceeded: The time is over.
            ChannelClosed: The worker's process has ended, and has sent no reply before that.
        """
        if flight.over():
            raise self._expire(flight) from None
        if self._interrupted:  # the worker may not have started on the command the first time
            self._transport.interrupt()
        if self._transport.poll() is not None and not flight.last_look:
            flight.last_look = True
        elif flight.last_look:
            raise ChannelClosed("the worker's process ended") from None

    def _mixed_up(self, flight: Flight, came: _Stray) -> ProtocolError:
        self._channel.close()
        return ProtocolError(
            ErrorCode.MALFORMED,
            f"the reply has id {came.id!r}, the command {flight.message_id}; the transport "
            "mixed up messages, and the channel was closed",
        )

    def _expire(self, flight: Flight) -> DeadlineExceeded:
        """The deadline has passed: make the worker give up, or end it."""
        survived = self._give_up(flight)
        outcome = (
            "the worker gave the command up and can be used on"
            if survived
            else f"the worker did not give it up when interrupted, and was {self._fate}"
        )
        text = f"{flight.call} {flight.excess()}; {outcome}"
        return DeadlineExceeded(text, worker_survived=survived)

    def _give_up(self, flight: Flight) -> bool:
        """Interrupt the command until its reply comes, else stop the worker; True if it came."""
        flight.settled = True
        try:
            survived = self._interrupt_until_reply(flight)
        except BaseException:
            self._end(flight.call)
            raise
        if not survived:
            self._end(flight.call)
        return survived

    def _interrupt_until_reply(self, flight: Flight) -> bool:
        end = Deadline.after(self._grace)
        while not (end.over() or self._channel.closed):
            self._transport.interrupt()
            try:
                fields = read_fields(self._channel.receive(_REPEAT))
            except TimeoutError:
                continue
            except (ChannelClosed, ProtocolError):
                break
            if "event" not in fields and fields.get("id", flight.message_id) == flight.message_id:
                return True
        return False

    def _end(self, call: Call) -> None:
        self._channel.close()
        if self._transport.stop(0.0) is None:
            self._fate = "given up"  # it serves others too, or nobody knows what became of it
        self.ended = WorkerDied(
            f"the worker was {self._fate} because {call} did not stop when interrupted",
            command=call.cmd,
            node_id=call.node_id,
        )

    def _status_within(self, seconds: float) -> ExitStatus | None:
        """How the worker's process ended, if it does within so many seconds."""
        status = self._transport.poll()
        end = Deadline.after(seconds)
        while status is None and not end.over():
            time.sleep(0.01)
            status = self._transport.poll()
        return status

    def _death(self, flight: Flight, error: ChannelClosed) -> TransportError:
        """What to raise when the channel closed under a call."""
        call = flight.call
        if self.closed:
            return ChannelClosed(f"the worker was closed while {call} ran")
        if self.ended is not None:
            return self.ended
        status = self._status_within(_DEATH)
        stderr = self._transport.diagnostics()
        how = str(status) if status is not None else f"closed the channel ({error})"
        hint = self._memory.hint() if status is not None and status.signal == signal.SIGKILL else ""
        tail = f"; the end of its stderr:\n{stderr}" if stderr else ""
        when = f"during {call}" if flight.sent else f"before {call} was sent"
        self.ended = WorkerDied(
            f"the worker {how} {when}{hint}{tail}",
            exit_code=status.code if status else None,
            signal=status.signal_name if status else None,
            stderr=stderr,
            command=call.cmd,
            node_id=call.node_id,
            sent=flight.sent,
        )
        self._channel.close()
        return self.ended


class _Failure(NamedTuple):
    """A reply that says why the command failed, whatever it holds."""

    fields: dict[str, Any]
    meta: None = None


class _Stray(BaseModel):
    """A message that belongs to another command."""

    model_config = ConfigDict(defer_build=True)

    id: Any
    is_of_nobody: bool


class _Expected:
    """Validates what comes while a command runs: its reply, an event of it, or a stray.

    Args:
        flight: The command.
    """

    def __init__(self, flight: Flight) -> None:
        self._message_id = flight.message_id
        self._reply: type[Reply] = flight.call.reply

    def validate_python(self, fields: dict[str, Any]) -> Any:
        """The model of a message, by what its fields say that it is."""
        replied_to = fields.get("id", self._message_id)
        if replied_to != self._message_id:
            return self._stray(replied_to, fields)
        if fields.get("ok") is True:
            return self._reply.__pydantic_validator__.validate_python(fields)
        if "event" in fields:
            return Event.__pydantic_validator__.validate_python(fields)
        return _Failure(fields)

    def validate_json(self, text: bytes) -> Any:
        """The same for a line."""
        fields = read_fields(Message(text, (), Dialect.LINE))
        return self.validate_python(fields)

    def _stray(self, replied_to: Any, fields: dict[str, Any]) -> _Stray:
        late = type(replied_to) is int and 0 < replied_to < self._message_id
        return _Stray(id=replied_to, is_of_nobody=not late and "event" not in fields)


def _error_of(fields: dict[str, Any]) -> SomaError:
    if fields.get("code") == ErrorCode.INCOMPATIBLE:
        return IncompatibleWorker(fields.get("error"))
    return RemoteError.from_reply(fields)


def _not_a_reply(call: Call, error: ValidationError) -> ProtocolError:
    return ProtocolError(
        ErrorCode.MALFORMED,
        f"the worker's reply to {call} is not one: {describe(error)}; is it a soma worker?",
    )


def _no_explanation(error: SomaError, message_id: int) -> None:
    """Nothing is recorded, so there is nothing to add."""
