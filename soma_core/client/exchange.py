"""Exchange: one command and its reply as a state machine, which does no I/O and never waits."""

from __future__ import annotations

from enum import Enum
from typing import Any

from soma_core.client.calls import Call
from soma_core.errors import ChannelClosed
from soma_core.wire.message import Message

_LIVENESS = 0.25  # seconds between looks at whether the worker's process still runs
_POLLED = 0.15  # seconds of a wait that signals, however many, do not make longer
_REPEAT = 0.2  # seconds between interrupts


class Due(Enum):
    """What a driver has to do."""

    LOOK = "look whether the worker's process runs, and say so to looked()"
    INTERRUPT = "interrupt the worker"
    END = "end the worker: it did not stop when interrupted"


class Exchange:
    """A command that was sent, or is about to be, and what has become of it.

    It is over when its reply came, or when nobody waits for that any more. A command whose time
    has passed, or whose caller does not want it any more, is given up: the worker is interrupted
    until the reply comes, for the time of the grace.

    All times are seconds of one clock, which the caller reads.

    Args:
        message_id: Its id on the wire.
        grace: Seconds that it may take to end once it is interrupted.

    Attributes:
        message: What is to be sent.
        sent: Whether the worker may have received it.
        over: Whether there is nothing left to do.
        given_up: Whether nobody waits for its reply any more.
        answered: Whether its reply came.
        reply: The reply, or None.
        excess: Which of its limits it exceeded, if it did.
        interrupted: Whether somebody else asked for it to be interrupted.
    """

    message: Message
    sent = True
    over = given_up = answered = interrupted = False
    reply: Any = None
    excess: str | None = None
    _process_ended = False
    _interrupt_at = _end_at = 0.0  # once it is given up

    def __init__(self, call: Call, message_id: int, grace: float, now: float) -> None:
        self.call = call
        self.message_id = message_id
        self._grace = grace
        self._progressed = now
        self._look_at = now + _LIVENESS

    def wait(self, now: float) -> float:
        """Seconds to wait for a message before asking what is :meth:`due`."""
        if self.given_up:
            return max(0.0, min(self._interrupt_at, self._end_at) - now)
        call = self.call
        next_moment = self._look_at
        if call.deadline.at is not None:
            next_moment = min(next_moment, call.deadline.at, now + _POLLED)
        if call.stall_timeout is not None:
            stalled = self._progressed + call.stall_timeout
            next_moment = min(next_moment, stalled, now + _POLLED)
        return max(0.0, next_moment - now)

    def due(self, now: float) -> list[Due]:
        """What is to be done now: asked when nothing came in time, and after each event."""
        if self.over:
            return []
        if not self.given_up:
            self.excess = self._exceeded(now)
            if self.excess is None:
                return self._routine(now)
            self.give_up(now)
        if now >= self._end_at:
            return [Due.END]
        if now < self._interrupt_at:
            return []
        self._interrupt_at = now + _REPEAT
        return [Due.INTERRUPT]

    def _routine(self, now: float) -> list[Due]:
        if now < self._look_at:
            return []
        self._look_at = now + _LIVENESS
        # The worker may not have started on the command the first time.
        return [Due.INTERRUPT, Due.LOOK] if self.interrupted else [Due.LOOK]

    def _exceeded(self, now: float) -> str | None:
        call = self.call
        if call.deadline.at is not None and now >= call.deadline.at:
            return f"did not end within {round(call.timeout or 0.0, 3):g} s"
        if call.stall_timeout is not None and now >= self._progressed + call.stall_timeout:
            return f"made no progress for {call.stall_timeout:g} s"
        return None

    def looked(self, process_ended: bool) -> None:
        """The driver has looked whether the process runs.

        Raises:
            ChannelClosed: It has ended, and a while later there is still no reply of it.
        """
        if self._process_ended:
            raise ChannelClosed("the worker's process ended")
        self._process_ended = process_ended

    def progress(self, now: float) -> None:
        """A progress event came."""
        self._progressed = now

    def give_up(self, now: float) -> None:
        """Nobody waits for the reply any more: from now on the worker is interrupted."""
        if not (self.over or self.given_up):
            self.given_up = True
            self._interrupt_at = now
            self._end_at = now + self._grace
