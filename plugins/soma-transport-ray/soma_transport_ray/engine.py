"""The engine's side: an actor that executes one command at a time on its process's main thread."""

from __future__ import annotations

import os
import signal
from typing import Literal, NamedTuple

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.serve import Host, Interrupts, RecordForwarder, Responder, become_worker
from soma_core.transport import Message
from soma_transport_ray.memory import Owner
from soma_transport_ray.messages import LAYOUT, Parcel, pack, unpack
from soma_transport_ray.printed import Printed
from soma_transport_ray.slate import CLIENT_SIZE, Slate, Turn


class Whereabouts(NamedTuple):
    """Where an engine runs, and how to look at it from outside.

    Attributes:
        layout: How it writes messages.
        node: The id of its node in Ray.
        pid: Its process there.
        slate: The descriptor of its slate in that process.
        token: What stands on it.
        printed: The file that its stdout and stderr go to.
    """

    layout: int
    node: str
    pid: int
    slate: int
    token: bytes
    printed: str


class EngineActor:
    """What the actor is."""

    def __init__(self, pickle: Literal["same-user", "never"]) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's would raise SystemExit in a filter
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it
        interrupts = Interrupts()
        interrupts.arm()
        become_worker()
        self._printed = Printed()
        records = RecordForwarder()
        self._forwarding = records.installed()
        self._forwarding.__enter__()  # until the process ends
        self._responder = Responder(pickle=pickle, interrupts=interrupts, records=records)
        self._hosts: dict[bytes, Host] = {}
        self._token = os.urandom(CLIENT_SIZE)
        self._slate = Slate(self._token)
        self._own = Owner()

    def whereabouts(self) -> Whereabouts:
        """Called first; also by a further client of a session."""
        import ray

        if self._responder.finished:
            ray.actor.exit_actor()
        node = ray.get_runtime_context().get_node_id()
        pid, slate = os.getpid(), self._slate.fd
        return Whereabouts(LAYOUT, node, pid, slate, self._token, self._printed.path)

    def answer(self, client: bytes, number: int, parcel: Parcel) -> Parcel:
        """Execute one command of a client: what it reported, and its reply."""
        if self._responder.finished:
            import ray

            ray.actor.exit_actor()
        [message], *_ = unpack(parcel, self._own)
        host = self._hosts.setdefault(client, Host())
        reported: list[Message] = []

        def report(event: Message) -> None:
            kept = event._replace(buffers=[bytes(buffer) for buffer in event.buffers])
            reported.append(kept)
            self._slate.show(pack([kept], large=float("inf")))

        withdrawn = self._slate.begin(Turn(client, number), self._printed.start)
        try:
            reply = (
                self._responder.decline(message, _WITHDRAWN)
                if withdrawn
                else self._responder.respond(message, report, host)
            )
        finally:
            self._slate.finish()
        last, printed = self._responder.finished, self._printed.take()
        return pack([*reported, reply], last=last, printed=printed)


_WITHDRAWN = ProtocolError(
    ErrorCode.INTERRUPTED,
    "the command was given up before it was executed",
)
