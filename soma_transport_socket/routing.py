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
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from soma_core.errors import StartFailed
from soma_transport_socket import address

__all__ = ["MAGIC", "Answer", "Request", "ask", "ask_once", "read_line"]

MAGIC = b"\x93SOMR"
_LONGEST_LINE = 1 << 18


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Request(_Model):
    """What the supervisor is asked for.

    Attributes:
        op: ``connect`` makes the connection that of a new worker; the others concern a worker
            that exists, and end the connection.
        worker: The worker that it is about.
        pickle: The policy of a new worker.
        threads: How many threads each numerical library of a new worker may start.
    """

    op: Literal["connect", "status", "interrupt", "terminate", "kill"]
    worker: str | None = None
    pickle: Literal["same-user", "never"] = "same-user"
    threads: int | None = Field(default=None, ge=1)

    def to_bytes(self) -> bytes:
        """As it is sent."""
        return MAGIC + self.model_dump_json(exclude_defaults=True).encode() + b"\n"


class Answer(_Model):
    """What the supervisor answers.

    Attributes:
        ok: Whether the request was done.
        error: Why not.
        worker: The id of the worker.
        pid: Its process.
        ended: Whether it has ended.
        code: Its exit status.
        signal: The signal that ended it.
        stderr: The last lines that it wrote.
    """

    ok: bool
    error: str | None = None
    worker: str | None = None
    pid: int | None = None
    ended: bool = False
    code: int | None = None
    signal: int | None = None
    stderr: str = ""

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
        TimeoutError: There is one, but it is held up.
    """
    try:
        with address.connect(path, timeout, owner) as connection:
            return ask(connection, request)
    except TimeoutError:
        raise
    except (OSError, StartFailed):
        return None
