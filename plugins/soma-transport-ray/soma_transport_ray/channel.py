"""The channel: each command is a call of the actor, and its outcome is the reply."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Any

from soma_core.errors import ChannelClosed, ErrorCode, ProtocolError
from soma_core.streams import raise_error_of_handler
from soma_core.transport import Channel, Deadline, Message
from soma_transport_ray.attendant import Attendant
from soma_transport_ray.cluster import Cluster
from soma_transport_ray.memory import Owner
from soma_transport_ray.messages import Parcel, may_report, pack, unpack
from soma_transport_ray.printed import Printout
from soma_transport_ray.slate import CLIENT_SIZE, Turn

_SLICE = 0.2  # seconds after which a receive looks whether the channel was closed
_LONGEST = 500  # characters of what Ray says of a death
_REPORTING = 0.05  # the same while a command may report progress


@dataclass
class _Call:
    """A command that was sent, and whose reply has not been received.

    Attributes:
        ref: What Ray returned for it.
        turn: Which one it is.
        reports: Whether it may report progress.
        seen: How many reports were received already.
    """

    ref: Any
    turn: Turn
    reports: bool
    seen: int = 0


class RayChannel(Channel):
    """The host's end; at the other is an :class:`~soma_transport_ray.engine.EngineActor`.

    Args:
        cluster: The connection.
        engine: The actor.
        attendant: Looks at its process.
        printout: Shows what it prints.
        here: Whether it is on this process's node.
        at_end: Called when the engine has answered SHUTDOWN.

    Attributes:
        ended: Why nothing comes any more from the other end, if that is so.
        told: What Ray said of it.
    """

    def __init__(
        self,
        cluster: Cluster,
        engine: Any,
        attendant: Attendant,
        printout: Printout,
        *,
        here: bool,
        at_end: Callable[[], None],
    ) -> None:
        self._cluster, self._engine, self._attendant = cluster, engine, attendant
        self._printout, self._here, self._at_end = printout, here, at_end
        self._client = os.urandom(CLIENT_SIZE)
        self._number = 0
        self._calls: deque[_Call] = deque()
        self._arrived: deque[Message] = deque()
        self._own = Owner()
        self._closing = Event()
        self.ended: str | None = None
        self.told = ""

    def send(self, message: Message, timeout: float | None = None) -> None:
        self._check_open()
        if self.ended is None and self._attendant.ended():
            self.ended = "the engine's process ended"
        if self.ended is not None:
            raise ChannelClosed(self.ended)
        self._number += 1
        turn = Turn(self._client, self._number)
        try:
            self._cluster.check()
            ref = self._engine.answer.remote(*turn, pack([message]))
        except (Exception, SystemExit) as error:  # the latter where Ray was shut down meanwhile
            raise_error_of_handler(error)
            raise ChannelClosed(f"Ray does not take the command: {error}") from error
        self._calls.append(_Call(ref, turn, may_report(message)))

    def receive(self, timeout: float | None = None) -> Message:
        deadline = Deadline.after(timeout)
        while not self._arrived:
            self._check_open()
            left = deadline.left()
            self._advance(_SLICE if left is None else min(left, _SLICE))
            if left == 0.0 and not self._arrived:
                raise TimeoutError(f"no message came within {timeout:g} s")
        self._check_open()
        return self._arrived.popleft()

    def _advance(self, patience: float) -> None:
        """Wait for what comes next, and take it."""
        if self.ended is not None:
            raise ChannelClosed(self.ended, sent=True)
        if not self._calls:
            self._closing.wait(patience)
            return
        call = self._calls[0]
        parcel = self._outcome(call, min(patience, _REPORTING) if call.reports else patience)
        if parcel is not None:
            self._calls.popleft()
            self._take(call, parcel)
        else:
            self._peek(call)

    def _outcome(self, call: _Call, patience: float) -> Parcel | None:
        """What a command came to; None if it has not ended yet."""
        from ray.exceptions import GetTimeoutError, RayTaskError

        try:
            ray = self._cluster.ray
            if self._here:
                return ray.get(call.ref, timeout=patience)
            # A wait that is over goes on pulling a large reply from another node; a get does not.
            return ray.get(call.ref) if ray.wait([call.ref], timeout=patience)[0] else None
        except RayTaskError as error:
            self._calls.popleft()
            text = f"the engine's actor failed, and sent no reply: {error}"
            raise ProtocolError(ErrorCode.MALFORMED, text) from error
        except GetTimeoutError:
            return None
        except (Exception, SystemExit) as error:  # it died, its node did, or the cluster; likewise
            raise_error_of_handler(error)
            raise self._end(error) from error

    def _peek(self, call: _Call) -> None:
        """Take what the command has reported and printed so far; the reply brings it again."""
        reports, printed = self._attendant.shown(call.turn, call.seen)
        for parcel in reports:
            self._arrived.extend(unpack(parcel, self._own, float("inf"))[0])
        call.seen += len(reports)
        self._printout.show(printed)

    def _take(self, call: _Call, parcel: Parcel) -> None:
        messages, last, printed = unpack(parcel, self._own)
        self._arrived.extend(messages[call.seen :])
        self._printout.show(printed)
        if last:
            self.ended = "the engine has ended, as it was told to"
            self._at_end()

    def _end(self, error: BaseException) -> ChannelClosed:
        self.ended = self.told = _brief(error)
        return ChannelClosed(self.ended, sent=True)

    def turn(self) -> Turn | None:
        """The oldest command that was sent and not answered yet."""
        try:
            return self._calls[0].turn
        except IndexError:
            return None

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise ChannelClosed("the channel is closed")

    def close(self) -> None:
        self._closing.set()

    @property
    def closed(self) -> bool:
        return self._closing.is_set()


def _brief(error: BaseException) -> str:
    """What Ray says of a death, without its advice and identifiers."""
    if isinstance(error, SystemExit):
        return "Ray was shut down in this process"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if " because " in line] or lines or [type(error).__name__]
    return reasons[0].partition(" Some common causes ")[0][:_LONGEST]
