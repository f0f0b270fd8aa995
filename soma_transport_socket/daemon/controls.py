"""What clients ask about their workers, over connections that stay open for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import get_args

from pydantic import ValidationError

from soma_transport_socket.daemon.loop import Loop
from soma_transport_socket.messages import Answer, Question, Request

_LONGEST_REQUEST = 4096
_QUESTIONS = frozenset(get_args(Question))

Answers = Callable[[Request], Answer]


class Controls:
    """The control sockets of all clients, each of which can ask about its client's worker.

    They outlive the workers, so that clients learn how these ended.
    """

    def __init__(self, loop: Loop, answers: Answers) -> None:
        self._loop = loop
        self._answers = answers
        self._of: dict[str, dict[int, socket.socket]] = {}

    def add(self, control: socket.socket, worker: str, client: int) -> None:
        """Answer what comes over a socket, which is owned from now on, about a worker."""
        control.setblocking(False)
        self._of.setdefault(worker, {})[client] = control
        self._loop.on_readable(control, partial(self._read, control, worker, client))

    def has(self, worker: str, client: int) -> bool:
        """Whether a client can still ask about its worker."""
        return client in self._of.get(worker, ())

    def forget(self, worker: str) -> None:
        """Close those of a worker of which nothing is known any more."""
        for client in list(self._of.get(worker, ())):
            self.drop(worker, client)

    def drop(self, worker: str, client: int) -> None:
        """Close that of one client."""
        control = self._of[worker].pop(client)
        self._loop.remove(control)
        control.close()
        if not self._of[worker]:
            del self._of[worker]

    def _read(self, control: socket.socket, worker: str, client: int) -> None:
        data = b""
        with suppress(OSError):  # it is gone
            data = control.recv(_LONGEST_REQUEST)
        try:
            if not data.endswith(b"\n"):
                raise ValueError("a request is one line, sent at once")
            for line in data.splitlines():
                answer = self._answer(Request.model_validate_json(line), worker, client)
                whole = answer.to_json() + b"\n"
                if control.send(whole) < len(whole):
                    raise ValueError("the client does not read what it asked for")
        except (ValidationError, ValueError, OSError):
            self.drop(worker, client)

    def _answer(self, request: Request, worker: str, client: int) -> Answer:
        if request.op not in _QUESTIONS:
            return Answer(ok=False, error=f"{request.op!r} is nothing to ask of one's worker")
        return self._answers(Request(op=request.op, worker=worker, client=client))


def copy_of(fd: int) -> socket.socket:
    """A socket of this process for a descriptor that stays the caller's.

    Raises:
        OSError: This process has no descriptors left.
    """
    return socket.socket(fileno=os.dup(fd))
