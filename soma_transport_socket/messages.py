"""What client, daemon and worker say to each other before the protocol starts, or beside it.

Every message is a model, sent as JSON; descriptors may travel with it. A client and the daemon
talk on a stream: a connection that begins with the five bytes ``93 53 4F 4D 52`` continues with
one line, the :class:`Request`, and is answered by one line, the :class:`Answer`. A connection
that begins with anything else is a host that speaks the protocol straight away, and gets a worker
of its own. The daemon and its own processes talk on sockets of type SEQPACKET, one packet for
each message: :func:`send` and :func:`receive`.
"""

from __future__ import annotations

import os
import signal
import socket
from array import array
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from soma_core.transport import DaemonInfo, SessionInfo

MAGIC = b"\x93SOMR"
PicklePolicy = Literal["same-user", "never"]
SessionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""What a session may be called: it is shown in lists, and typed in shells."""

Brought = Literal["memory", "output", "printed", "control"]
"""What a descriptor is that a client attaches to its request."""

Question = Literal["status", "interrupt", "terminate", "kill"]
"""What a client may ask about its worker."""

Attached = Literal["connection", "events", "activity", "lifeline", "spec"] | Brought
"""What a descriptor is that travels with a message.

``connection``: a client's. ``memory``: the socket beside it for shared memory. ``output``: the
end of a pipe that becomes stdout and stderr; ``printed``: its other end. ``control``: a socket
over which the client asks the daemon about its worker, as long as it likes. ``events``: the socket
for :class:`SessionEvent`. ``activity``: the memory in which a session writes what it runs.
``lifeline``: the worker's end of it. ``spec``: the socket for its :class:`WorkerSpec`.
"""

FINISH = signal.SIGURG
"""Tells the worker of one client to end after what it was sent; nobody else is harmed by it."""

_LONGEST_PACKET = 1 << 16
_MOST_DESCRIPTORS = 8  # more than ever come at once


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    def to_json(self) -> bytes:
        """As it is sent; fields that have their default are left out."""
        return self.model_dump_json(exclude_defaults=True).encode()


class _Message(_Model):
    """Base of the messages with which descriptors may travel.

    Attributes:
        attached: What they are, in their order.
    """

    attached: tuple[Attached, ...] = ()


_M = TypeVar("_M", bound=_Message)


class Request(_Message):
    """A client to the daemon: what it wants.

    Attributes:
        op: ``connect`` makes the connection that of a worker; ``memory``, ``output``, ``printed``
            and ``control`` may be attached. The others end the connection, if it is not such a
            control: ``status``, ``interrupt``, ``terminate`` and ``kill`` concern a worker,
            ``sessions`` lists the sessions, ``stop`` ends one, ``daemon`` describes the daemon and
            lists all workers. ``serve`` is what a client asks for that says nothing: a worker,
            without an answer.
        worker: The worker that it is about.
        client: The client of a session whose command is to be interrupted.
        session: The session to join or to end.
        pickle: The policy of a new worker.
        threads: How many threads each numerical library of a new worker may start.
    """

    op: Literal["connect", "serve", "sessions", "stop", "daemon", Question]
    worker: str | None = None
    client: int | None = None
    session: SessionName | None = None
    pickle: PicklePolicy = "same-user"
    threads: int | None = Field(default=None, ge=1)
    attached: tuple[Brought, ...] = ()


class Answer(_Model):
    """The daemon to a client: what came of its request.

    Attributes:
        ok: Whether the request was done.
        error: Why not.
        worker: The id of the worker.
        pid: Its process.
        client: The number of the client in it.
        warning: What is not as it should be with it.
        ended: Whether it has ended.
        code: Its exit status.
        signal: The signal that ended it.
        stderr: The last lines that it wrote.
        sessions: The sessions, if that was asked.
        daemon: The daemon, if that was asked.
    """

    ok: bool
    error: str | None = None
    worker: str | None = None
    pid: int | None = None
    client: int | None = None
    warning: str | None = None
    ended: bool = False
    code: int | None = None
    signal: int | None = None
    stderr: str = ""
    sessions: list[SessionInfo] = []
    daemon: DaemonInfo | None = None


class WorkerSpec(_Message):
    """The daemon to a new worker: how to run. A forked one sends it back once it has it.

    A session, whose clients come and go, gets ``events`` and ``activity``; else travels along what
    the one client has: its ``connection``, ``memory`` and ``output``.

    Attributes:
        pickle: Whether its engine makes and reads pickles.
        threads: How many threads each numerical library may start; None leaves them alone.
        memory_limit: Bytes of memory that it may take for itself; None for any.
    """

    pickle: PicklePolicy = "same-user"
    threads: int | None = None
    memory_limit: int | None = None


class SessionEvent(_Message):
    """The daemon to the worker of a session: what its clients do.

    Attributes:
        kind: ``join``: a client comes, with its ``connection``, ``memory`` and ``output``.
            ``interrupt``: the client wants its command given up. ``gone``: the client has hung
            up. ``finish``: nobody comes any more, and the session ends when the last client has
            left.
        client: Its number; 0 stands for whichever client's command runs.
    """

    kind: Literal["join", "interrupt", "gone", "finish"]
    client: int = 0


class ForkRequest(_Message):
    """The daemon to the zygote: fork a worker, with this ``lifeline``, ``output`` and ``spec``.

    Attributes:
        tree: The mark of what comes of the worker.
    """

    tree: str


class ZygoteEvent(_Message):
    """The zygote to the daemon.

    Attributes:
        kind: ``imported``: it can fork. ``failed``: a module cannot be imported, and it ends.
            ``forked``: here is a worker. ``refused``: it cannot fork now.
        pid: The process of the worker that was forked.
        reason: Why it failed or refuses.
    """

    kind: Literal["imported", "failed", "forked", "refused"]
    pid: int = 0
    reason: str = ""


def packet_sockets() -> tuple[socket.socket, socket.socket]:
    """Two connected ends for :func:`send` and :func:`receive`.

    Raises:
        OSError: They cannot be made, or this system has no such sockets.
    """
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(
    to: socket.socket, message: _Message, attached: Mapping[Attached, int] | None = None
) -> None:
    """Send a message as one packet, and descriptors that stay the caller's.

    Raises:
        OSError: The other end is gone; or, where the socket does not block, nothing fits.
    """
    attached = attached or {}
    named = message.model_copy(update={"attached": tuple(attached)})
    send_fds(to, named.to_json(), list(attached.values()))


def receive(kind: type[_M], source: socket.socket) -> tuple[_M | None, dict[Attached, int]]:
    """Receive a message, or None at the end, and the descriptors that came with it.

    Raises:
        BlockingIOError: Nothing has come, where the socket does not block.
    """
    data, descriptors = recv_fds(source, _LONGEST_PACKET)
    if not data:
        return None, {}
    message = kind.model_validate_json(data)
    return message, dict(zip(message.attached, descriptors, strict=True))


def send_fds(to: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    """Send bytes and descriptors.

    Raises:
        OSError: They could not be sent. Never a SIGPIPE, for which :func:`socket.send_fds` does
            not care: a host may have that at its default.
    """
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))
    to.sendmsg([data], [rights] if descriptors else [], getattr(socket, "MSG_NOSIGNAL", 0))


def recv_fds(source: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Receive bytes and descriptors, which are the caller's to close.

    Children do not inherit them, which :func:`socket.recv_fds` does not see to.

    Raises:
        OSError: Nothing could be received.
    """
    data, descriptors, _, _ = socket.recv_fds(source, size, _MOST_DESCRIPTORS)
    for fd in descriptors:
        os.set_inheritable(fd, False)
    return data, descriptors
