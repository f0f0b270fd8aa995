"""The engine's side: an actor that executes one command at a time on its process's main thread."""

from __future__ import annotations

import os
import signal
from typing import Literal, NamedTuple

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.serve import Interrupts, Responder, become_worker
from soma_core.transport import Message
from soma_transport_ray.memory import Owner
from soma_transport_ray.messages import LAYOUT, Parcel, pack, unpack
from soma_transport_ray.slate import CLIENT_SIZE, Slate, Turn

__all__ = ["EngineActor", "Whereabouts"]


class Whereabouts(NamedTuple):
    """Where an engine runs, and how to look at it from outside.

    Attributes:
        layout: How it writes messages.
        node: The id of its node in Ray.
        pid: Its process there.
        slate: The descriptor of its slate in that process.
        token: What stands on it.
        stderr: The file that its stderr goes to.
    """

    layout: int
    node: str
    pid: int
    slate: int
    token: bytes
    stderr: str


class EngineActor:
    """What the actor is."""

    def __init__(self, pickle: Literal["same-user", "never"]) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's would raise SystemExit in a filter
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it
        interrupts = Interrupts()
        interrupts.arm()
        become_worker()
        self._responder = Responder(pickle=pickle, interrupts=interrupts)
        self._token = os.urandom(CLIENT_SIZE)
        self._slate = Slate(self._token)
        self._own = Owner()

    def whereabouts(self) -> Whereabouts:
        """Called first; also by a further client of a session."""
        import ray

        if self._responder.finished:
            ray.actor.exit_actor()
        node = ray.get_runtime_context().get_node_id()
        stderr = os.readlink("/proc/self/fd/2")
        return Whereabouts(LAYOUT, node, os.getpid(), self._slate.fd, self._token, stderr)

    def answer(self, client: bytes, number: int, parcel: Parcel) -> Parcel:
        """Execute one command of a client: what it reported, and its reply."""
        if self._responder.finished:
            import ray

            ray.actor.exit_actor()
        [message], _ = unpack(parcel, self._own)
        reported: list[Message] = []

        def report(event: Message) -> None:
            kept = event._replace(buffers=[bytes(buffer) for buffer in event.buffers])
            reported.append(kept)
            self._slate.show(pack([kept], large=float("inf")))

        withdrawn = self._slate.begin(Turn(client, number))
        try:
            reply = (
                self._responder.decline(message, _WITHDRAWN)
                if withdrawn
                else self._responder.respond(message, report)
            )
        finally:
            self._slate.finish()
        return pack([*reported, reply], last=self._responder.finished)


_WITHDRAWN = ProtocolError(
    ErrorCode.INTERRUPTED,
    "the command was given up before it was executed",
)
