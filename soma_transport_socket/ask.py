"""Asking the daemon: a request over a connection, and its answer."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from soma_core.errors import StartFailed
from soma_core.transport import Deadline
from soma_transport_socket import address
from soma_transport_socket.messages import MAGIC, Answer, Brought, Request, send_fds

__all__ = ["ask", "ask_once"]

_LONGEST_LINE = 1 << 20


def ask(
    connection: socket.socket, request: Request, attached: Mapping[Brought, int] | None = None
) -> Answer:
    """Send a request over a new connection, and wait for the answer.

    Args:
        connection: The connection.
        request: The request.
        attached: Descriptors that travel along; they stay the caller's.

    Raises:
        OSError: The connection failed, or its timeout passed, which holds for the whole answer.
        StartFailed: What listens there is not a soma daemon.
    """
    deadline = Deadline.after(connection.gettimeout())
    attached = attached or {}
    line = request.model_copy(update={"attached": tuple(attached)}).to_json()
    with suppress(BrokenPipeError):  # it has refused already, and said why
        send_fds(connection, MAGIC + line + b"\n", list(attached.values()))
    line = _read_line(connection, deadline)
    try:
        return Answer.model_validate_json(line)
    except ValueError:
        raise StartFailed(
            f"what listens there is not a soma daemon: it sent {line[:80]!r}"
        ) from None


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


def _read_line(connection: socket.socket, deadline: Deadline) -> bytes:
    """Read up to a newline and not a byte further: what follows is the worker's.

    Raises:
        OSError: The connection ended or failed before it.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        left = deadline.left()
        if left == 0:
            raise TimeoutError("the daemon did not answer in time")
        connection.settimeout(left)
        byte = connection.recv(1)
        if not byte or len(line) > _LONGEST_LINE:
            raise ConnectionError("the daemon closed the connection without an answer")
        line += byte
    return bytes(line)
