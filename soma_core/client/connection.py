"""Conversation: one command and its reply at a time, with deadlines, interrupts and deaths told."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from soma_core.channel.contract import Channel, ExitStatus, Transport
from soma_core.client.calls import Call, Reply
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
from soma_core.wire.codec import Decoder, FrameEncoder
from soma_core.wire.json_text import read_json, write_json
from soma_core.wire.message import Message
from soma_core.wire.pickles import Pickles
from soma_core.wire.recurring import WITH_ID, RecurringHeaders

__all__ = ["Conversation"]

Explain = Callable[[SomaError, int], None]

_RECURRING_FIELDS = frozenset({"ok", "result", "states", "loss", "id"})
_SIGKILL = int(getattr(signal, "SIGKILL", 9))
_REPEAT = 0.2  # seconds between interrupts
_GRACE = 2.0  # seconds that an interrupted command may take to end, before the worker is ended
_LAST_BYTES = 0.2  # seconds in which a worker is seen to be dead that sent half a message
_DEATH = 1.0  # seconds to wait for the exit status of a worker whose channel closed


class Conversation:
    """The host's side of a channel.

    Args:
        transport: Started already; asked about the worker's process when something goes wrong.
        channel: What ``transport.start`` returned.
        pickles: Whether pickles are made and read.
        explain: Given the error of a call and the id of its command, before it is raised.

    Attributes:
        told: What plugins of the worker said last, by plugin.
    """

    def __init__(
        self,
        transport: Transport,
        channel: Channel,
        pickles: Pickles,
        explain: Explain | None = None,
    ) -> None:
        self._transport = transport
        self._channel = channel
        self._pickles = pickles
        self._explain = explain or _no_explanation
        self._turn = threading.Lock()
        self._flight = threading.Lock()
        self._in_flight: Call | None = None
        self._interrupted = False
        self._owner = os.getpid()
        self._last_id = 0
        self._recurring: RecurringHeaders[None] = RecurringHeaders()
        self._decoded = Decoder(pickles=pickles)
        self._memory = MemoryPressure()
        self.told: dict[str, Any] = {}
        self._fate = "ended"
        self.ended: WorkerDied | None = None
        self.closed = False

    @property
    def running(self) -> tuple[str, str | None, float] | None:
        """The command that runs, its node, and since when (``time.monotonic``); or None."""
        call = self._in_flight
        return None if call is None else (call.cmd, call.node_id, call.started)

    def ask(self, call: Call) -> Reply:
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
        try:
            if self.closed or self.ended is not None or os.getpid() != self._owner:
                self._check_usable()
            self._last_id = call.message_id = self._last_id + 1
            if call.text is None:
                message = self._message(call)
            else:
                message = Message(WITH_ID % (call.text, call.message_id), call.buffers)
            reply = self._exchange(call, message)
        except SomaError as error:
            self._explain(error, call.message_id)
            raise
        finally:
            self._turn.release()
        fields = reply.fields
        if fields.get("ok") is not True:
            raise self._failure(call, fields)
        if "meta" in fields:
            self.told = {**self.told, **fields["meta"]}
        return reply

    def _failure(self, call: Call, fields: dict[str, Any]) -> SomaError:
        refused = fields.get("code") == ErrorCode.INCOMPATIBLE
        failure = (
            IncompatibleWorker(fields.get("error")) if refused else RemoteError.from_reply(fields)
        )
        self._explain(failure, call.message_id)
        return failure

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
        left = call.left()
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

    def _message(self, call: Call) -> Message:
        encoder = FrameEncoder(pickles=self._pickles)
        fields = call.fields(encoder)
        fields["id"] = call.message_id  # at the end, where recurring headers have it
        return Message(write_json(fields), encoder.buffers)

    def _exchange(self, call: Call, message: Message) -> Reply:
        """Send a command and receive its reply; whatever happens, no reply is left behind."""
        self._interrupted = False
        self._in_flight = call
        output = self._transport.output
        if output is not None:
            output.node_id = call.node_id
        if call.stall_timeout is not None:  # neither queueing nor a restart is a stall
            call.progressed = time.monotonic()
        try:
            try:
                self._channel.send(message, None if call.deadline is None else call.left())
            except TimeoutError:
                if not call.over():
                    raise
                raise self._expire(call) from None
            except ChannelClosed as error:
                call.sent = error.sent
                raise
            return self._receive(call)
        except ChannelClosed as error:
            raise self._death(call, error) from None
        except BaseException:
            if not call.settled:
                self._give_up(call)
            raise
        finally:
            if output is not None:
                output.show()
                output.node_id = None
            with self._flight:
                self._in_flight = None

    def _receive(self, call: Call) -> Reply:
        while True:
            try:
                message = self._channel.receive(call.next_wait())
            except TimeoutError:
                self._look_around(call)
                continue
            except ProtocolError as error:
                if error.code is ErrorCode.MALFORMED and self._status_within(_LAST_BYTES):
                    raise ChannelClosed(str(error), sent=True) from None  # it died in mid-reply
                call.settled = not self._channel.closed  # it came, and this host cannot take it
                raise
            header, buffers, _ = message
            recognised = self._recurring.recognise(header, buffers)
            if recognised is not None and recognised[1]["id"] == call.message_id:
                call.settled = True
                return Reply(recognised[1], self._decoded)
            fields = self._read(message)
            decoder = Decoder(buffers, pickles=self._pickles)
            if "event" not in fields:
                replied_to = fields.get("id", call.message_id)
                if replied_to == call.message_id:
                    call.settled = True
                    return Reply(fields, decoder)
                if not _is_late(replied_to, call):
                    call.settled = True
                    raise self._mixed_up(call, fields)
            elif fields.get("id", call.message_id) == call.message_id:
                call.progressed = time.monotonic()
                if call.progress is not None:
                    call.progress(decoder.decode(fields.get("data") or {}))
            if call.over():  # messages without end are no reason to wait without end
                raise self._expire(call)

    def _read(self, message: Message) -> dict[str, Any]:
        """The fields of a message that is not recognised; if it recurs, the next one is."""
        fields = _fields(message)
        if fields.keys() <= _RECURRING_FIELDS and self._recurring.recurs(message.header):
            self._recurring.learn(message.header, fields, fields, None)
        return fields

    def _look_around(self, call: Call) -> None:
        """Nothing has come for a while: is the time over, the worker gone, or an interrupt due?

        Raises:
            DeadlineExceeded: The time is over.
            ChannelClosed: The worker's process has ended, and has sent no reply before that.
        """
        if call.over():
            raise self._expire(call) from None
        if self._interrupted:  # the worker may not have started on the command the first time
            self._transport.interrupt()
        if self._transport.poll() is not None and not call.last_look:
            call.last_look = True
        elif call.last_look:
            raise ChannelClosed("the worker's process ended") from None

    def _mixed_up(self, call: Call, fields: dict[str, Any]) -> ProtocolError:
        self._channel.close()
        return ProtocolError(
            ErrorCode.MALFORMED,
            f"the reply has id {fields['id']!r}, the command {call.message_id}; the transport "
            "mixed up messages, and the channel was closed",
        )

    def _expire(self, call: Call) -> DeadlineExceeded:
        """The deadline has passed: make the worker give up, or end it."""
        survived = self._give_up(call)
        outcome = (
            "the worker gave the command up and can be used on"
            if survived
            else f"the worker did not give it up when interrupted, and was {self._fate}"
        )
        return DeadlineExceeded(f"{call} {call.excess()}; {outcome}", worker_survived=survived)

    def _give_up(self, call: Call) -> bool:
        """Interrupt the command until its reply comes, else stop the worker; True if it came."""
        call.settled = True
        try:
            survived = self._wait_for_end(call)
        except BaseException:
            self._end(call)
            raise
        if not survived:
            self._end(call)
        return survived

    def _wait_for_end(self, call: Call) -> bool:
        end = time.monotonic() + _GRACE
        while time.monotonic() < end and not self._channel.closed:
            self._transport.interrupt()
            try:
                fields = _fields(self._channel.receive(_REPEAT))
                if "event" not in fields and fields.get("id", call.message_id) == call.message_id:
                    return True
            except TimeoutError:
                continue
            except (ChannelClosed, ProtocolError):
                break
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
        end = time.monotonic() + seconds
        while status is None and time.monotonic() < end:
            time.sleep(0.01)
            status = self._transport.poll()
        return status

    def _death(self, call: Call, error: ChannelClosed) -> TransportError:
        """What to raise when the channel closed under a call."""
        if self.closed:
            return ChannelClosed(f"the worker was closed while {call} ran")
        if self.ended is not None:
            return self.ended
        status = self._status_within(_DEATH)
        stderr = self._transport.diagnostics()
        how = str(status) if status is not None else f"closed the channel ({error})"
        hint = self._memory.hint() if status is not None and status.signal == _SIGKILL else ""
        tail = f"; the end of its stderr:\n{stderr}" if stderr else ""
        when = f"during {call}" if call.sent else f"before {call} was sent"
        self.ended = WorkerDied(
            f"the worker {how} {when}{hint}{tail}",
            exit_code=status.code if status else None,
            signal=status.signal_name if status else None,
            stderr=stderr,
            command=call.cmd,
            node_id=call.node_id,
            sent=call.sent,
        )
        self._channel.close()
        return self.ended


def _no_explanation(error: SomaError, message_id: int) -> None:
    """Nothing is recorded, so there is nothing to add."""


def _fields(message: Message) -> dict[str, Any]:
    fields = read_json(message.header)
    if isinstance(fields, dict):
        return fields
    raise ProtocolError(ErrorCode.MALFORMED, "the worker sent something that is not a reply")


def _is_late(replied_to: Any, call: Call) -> bool:
    """Whether a reply is to an earlier command, whose own reply this host could not take."""
    return type(replied_to) is int and 0 < replied_to < call.message_id
