"""What a client says to the supervisor before the protocol starts, or instead of it.

A connection that begins with anything else is a host that speaks the protocol straight away,
and gets a worker of its own. One that begins with the five bytes ``93 53 4F 4D 52`` continues
with one line of JSON, the request, and is answered by one line of JSON. A socket may travel with
a ``connect``: the worker inherits it, for shared memory.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from soma_core.errors import StartFailed
from soma_transport_socket import address

__all__ = [
    "MAGIC",
    "Answer",
    "Request",
    "SessionEntry",
    "SessionName",
    "ask",
    "ask_once",
    "read_line",
]

MAGIC = b"\x93SOMR"
SessionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""What a session may be called: it is shown in lists, and typed in shells."""

_LONGEST_LINE = 1 << 20


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


class Request(_Model):
    """What the supervisor is asked for.

    Attributes:
        op: ``connect`` makes the connection that of a worker. The others end the connection:
            ``status``, ``interrupt``, ``terminate`` and ``kill`` concern a worker,
            ``sessions`` lists the sessions, ``stop`` ends one. ``serve`` is what a client asks
            for that says nothing: a worker, without an answer.
        worker: The worker that it is about.
        client: The client of a session whose command is to be interrupted.
        session: The session to join or to end.
        pickle: The policy of a new worker.
        threads: How many threads each numerical library of a new worker may start.
    """

    op: Literal["connect", "serve", "status", "interrupt", "terminate", "kill", "sessions", "stop"]
    worker: str | None = None
    client: int | None = None
    session: SessionName | None = None
    pickle: Literal["same-user", "never"] = "same-user"
    threads: int | None = Field(default=None, ge=1)

    def to_bytes(self) -> bytes:
        """As it is sent."""
        return MAGIC + self.model_dump_json(exclude_defaults=True).encode() + b"\n"


class SessionEntry(_Model):
    """A session in a list of them.

    Attributes:
        name: Its name.
        pid: The process of its worker.
        clients: How many are connected.
        command: The command that runs, or None.
        node_id: The node that it runs on, or None.
        seconds: How long it has been running.
    """

    name: str
    pid: int
    clients: int
    command: str | None = None
    node_id: str | None = None
    seconds: float = 0.0


class Answer(_Model):
    """What the supervisor answers.

    Attributes:
        ok: Whether the request was done.
        error: Why not.
        worker: The id of the worker.
        pid: Its process.
        client: The number of the client in it.
        ended: Whether it has ended.
        code: Its exit status.
        signal: The signal that ended it.
        stderr: The last lines that it wrote.
        sessions: The sessions, if that was asked.
    """

    ok: bool
    error: str | None = None
    worker: str | None = None
    pid: int | None = None
    client: int | None = None
    ended: bool = False
    code: int | None = None
    signal: int | None = None
    stderr: str = ""
    sessions: list[SessionEntry] = []

    def to_bytes(self) -> bytes:
        """As it is sent."""
        return self.model_dump_json(exclude_defaults=True).encode() + b"\n"


def ask(connection: socket.socket, request: Request, side: socket.socket | None = None) -> Answer:
    """Send a request over a new connection, and wait for the answer.

    Args:
        connection: The connection.
        request: The request.
        side: A socket to hand to the worker, for shared memory.

    Raises:
        OSError: The connection failed, or its timeout passed.
        StartFailed: What listens there is not a soma daemon.
    """
    handed = [] if side is None else [side.fileno()]
    with suppress(BrokenPipeError):  # it has refused already, and said why
        socket.send_fds(connection, [request.to_bytes()], handed)
    line = read_line(connection)
    try:
        return Answer.model_validate_json(line)
    except ValueError:
        raise StartFailed(
            f"what listens there is not a soma daemon: it said {line[:80]!r}"
        ) from None


def read_line(connection: socket.socket) -> bytes:
    """Read up to a newline and not a byte further: what follows is for the worker.

    Raises:
        OSError: The connection ended or failed before it.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte or len(line) > _LONGEST_LINE:
            raise ConnectionError("the daemon closed the connection without an answer")
        line += byte
    return bytes(line)


def ask_once(
    path: Path, request: Request, timeout: float, owner: int | None = None
) -> Answer | None:
    """Ask the daemon at a path over a connection of its own; None if there is no daemon.

    Raises:
        OSError: It cannot be asked now, which says nothing about it: it is held up, or this
            process has no descriptors left.
    """
    try:
        with address.connect(path, timeout, owner) as connection:
            return ask(connection, request)
    except (FileNotFoundError, ConnectionError, StartFailed):
        return None
