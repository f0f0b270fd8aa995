"""Asking the daemon: a request over a connection, and its answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from soma_core.errors import StartFailed
from soma_core.streams import raise_error_of_handler
from soma_core.transport import Deadline, close_in_forked_child
from soma_transport_socket import address
from soma_transport_socket.messages import MAGIC, Answer, Brought, Request, send_fds

_LONGEST_LINE = 1 << 20
_SENDING = 0.01  # seconds; a question is short, and one at a time has room


def ask(
    connection: socket.socket, request: Request, attached: Mapping[Brought, int] | None = None
) -> Answer:
    """Send a request, and descriptors that stay the caller's; wait for the answer.

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


def ask_once(path: Path, request: Request, timeout: float) -> Answer | None:
    """Ask the daemon at a path over a connection of its own; None if there is no daemon.

    Raises:
        OSError: It cannot be asked now, which says nothing about it: it is held up, or this
            process has no descriptors left.
        StartFailed: What listens there is another user's, or no soma daemon.
    """
    try:
        with address.connect(path, timeout) as connection:
            return ask(connection, request)
    except (FileNotFoundError, ConnectionError):
        return None


class Control:
    """The socket over which a client asks the daemon about its worker. Thread-safe.

    It works on whatever becomes of the daemon's path.

    Args:
        connection: This end; owned from here on.
    """

    def __init__(self, connection: socket.socket) -> None:
        close_in_forked_child(connection)
        self._connection = connection
        self._lock = threading.RLock()
        self._asking = False
        self._came = bytearray()
        self._owed = 0

    @property
    def is_silent(self) -> bool:
        """Whether the last question has no answer yet: the daemon is held up."""
        return self._owed > 0

    def ask(self, request: Request, timeout: float) -> Answer | None:
        """Ask, and wait for the answer; None if the daemon has ended, or knows nothing any more.

        Args:
            request: The question. It is not sent as long as another one is not answered.
            timeout: Seconds to wait for that.

        Raises:
            TimeoutError: It cannot be answered now, which says nothing about the worker.
        """
        with self._lock:
            if self._asking or self._connection.fileno() < 0:  # in a signal handler; or closed
                raise TimeoutError("the daemon cannot be asked now")
            self._asking = True
            try:
                return self._ask(request, Deadline.after(timeout))
            finally:
                self._asking = False

    def _ask(self, request: Request, deadline: Deadline) -> Answer | None:
        try:
            while self._owed:
                self._next_line(deadline)
            self._connection.settimeout(_SENDING)
            send_fds(self._connection, request.to_json() + b"\n", ())
            self._owed += 1
            return Answer.model_validate_json(self._next_line(deadline))
        except (OSError, ValueError) as error:
            raise_error_of_handler(error)
            if isinstance(error, TimeoutError):
                raise
            return None

    def _next_line(self, deadline: Deadline) -> bytes:
        while (end := self._came.find(b"\n")) < 0:
            self._connection.settimeout(deadline.left() or _SENDING)
            data = self._connection.recv(_LONGEST_LINE)
            if not data:
                raise ConnectionError("the daemon has ended")
            self._came += data
        line = bytes(self._came[:end])
        del self._came[: end + 1]
        self._owed -= 1
        return line

    def close(self) -> None:
        """Ask nothing more. A second call does nothing."""
        self._connection.close()


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
