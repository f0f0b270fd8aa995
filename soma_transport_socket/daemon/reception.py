"""The daemon's door: lets clients in, and reads what each of them asks for."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial

from pydantic import ValidationError

from soma_core.transport import Deadline
from soma_transport_socket import address
from soma_transport_socket.daemon.loop import Loop
from soma_transport_socket.daemon.peers import ClientRefused, Peers
from soma_transport_socket.messages import MAGIC, Answer, Brought, Request, recv_fds

_LONGEST_REQUEST = 4096
_PATIENCE = 1.0  # seconds for a client to say the rest of a request
_SECOND_LOOK = 0.05
_MOST_SILENT = 256  # connections of one user that have asked for nothing yet


def _is_socket(fd: int) -> bool:
    return stat.S_ISSOCK(os.fstat(fd).st_mode)


def _is_pipe(fd: int, unusable: int) -> bool:
    mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    return stat.S_ISFIFO(os.fstat(fd).st_mode) and mode != unusable


_KINDS: dict[Brought, tuple[str, Callable[[int], bool]]] = {
    "memory": ("a socket", _is_socket),
    "output": ("a pipe to write into", partial(_is_pipe, unusable=os.O_RDONLY)),
    "printed": ("a pipe to read from", partial(_is_pipe, unusable=os.O_WRONLY)),
    "control": ("a socket", _is_socket),
}

Connect = Callable[[socket.socket, Request, Mapping[Brought, int]], None]
"""Gives a client the worker that it asked for; see :meth:`Supervisor.connect`."""

AnswerFor = Callable[[Request, int], Answer]
"""Does what a client of some user asks."""


class Reception:
    """Accepts connections."""

    def __init__(self, loop: Loop, peers: Peers, connect: Connect, answer: AnswerFor) -> None:
        self._loop = loop
        self._peers = peers
        self._connect, self._answer = connect, answer
        self._silent: dict[socket.socket, int] = {}  # and the users who are connected
        self._half_said: dict[socket.socket, Deadline] = {}

    def open(self, listening: socket.socket) -> None:
        """Accept the clients of a listening socket from now on."""
        self._loop.on_readable(listening, partial(self._accept, listening))

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, ConnectionError):  # it was gone again
            return
        except OSError:  # we are out of descriptors: let some go before looking again
            time.sleep(_SECOND_LOOK)
            return
        connection.setblocking(False)
        if not self._peers.serves(connection):
            refuse(connection, f"this daemon serves {self._peers}, and nobody else")
            return
        uid = address.peer_uid(connection)
        if list(self._silent.values()).count(uid) >= _MOST_SILENT:
            refuse(
                connection,
                f"user {uid} has {_MOST_SILENT} connections here that have asked for nothing; "
                "close them",
            )
            return
        self._silent[connection] = uid
        self._loop.on_readable(connection, partial(self._read, connection))

    def next_look(self) -> Deadline:
        """When to :meth:`look_again`."""
        return Deadline.after(_SECOND_LOOK if self._half_said else None)

    def look_again(self) -> None:
        """Look at the connections that have said too little so far."""
        for connection in list(self._half_said):
            self._loop.attend(partial(self._read, connection))

    def _read(self, connection: socket.socket) -> None:
        """A new connection says something: a request to us, or already the protocol."""
        try:
            start = connection.recv(_LONGEST_REQUEST, socket.MSG_PEEK)
        except OSError:
            start = b""
        self._loop.remove(connection)
        uid = self._silent.pop(connection)
        until = self._half_said.pop(connection, Deadline.after(_PATIENCE))
        if not start or address.hung_up(connection):
            connection.close()
        elif start.startswith(MAGIC):
            self._take_request(connection, start)
        elif MAGIC.startswith(start) and not until.over():
            self._silent[connection], self._half_said[connection] = uid, until
        else:
            self._connect(connection, Request(op="serve"), {})

    def _take_request(self, connection: socket.socket, start: bytes) -> None:
        end = start.find(b"\n")
        if end < 0:
            refuse(connection, "a request is one line, sent at once")
            return
        with ExitStack() as received:
            _, descriptors = recv_fds(connection, end + 1)
            for fd in descriptors:
                received.callback(os.close, fd)
            try:
                request = Request.model_validate_json(start[len(MAGIC) : end])
                attached = _attached(request, descriptors)
            except ValidationError as error:
                refuse(connection, f"not a request: {_first_problem(error)}")
                return
            except ClientRefused as refusal:
                refuse(connection, str(refusal))
                return
            if request.op == "connect":
                self._connect(connection, request, attached)
            else:
                reply(connection, self._answer(request, address.peer_uid(connection)))
                connection.close()


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part)[:100] for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]


def _attached(request: Request, descriptors: Sequence[int]) -> dict[Brought, int]:
    """What came with a request, by what it is said to be.

    Raises:
        ClientRefused: It is not that.
    """
    attached = dict(zip(request.attached, descriptors, strict=False))
    if not len(attached) == len(request.attached) == len(descriptors):
        names = ", ".join(request.attached) or "none"
        raise ClientRefused(f"{len(descriptors)} descriptors came, and these are named: {names}")
    for name, fd in attached.items():
        kind, is_kind = _KINDS[name]
        if not is_kind(fd):
            raise ClientRefused(f"what is attached as {name} is not {kind}")
    return attached


def refuse(connection: socket.socket, reason: str) -> None:
    """Say why a client does not get what it wants, and close its connection."""
    reply(connection, Answer(ok=False, error=reason))
    connection.close()


def reply(connection: socket.socket, answer: Answer) -> None:
    """Answer a client, which may be gone: its hang-up is noticed elsewhere."""
    with suppress(OSError):
        connection.sendall(answer.to_json() + b"\n")
