"""The supervisor's record of a worker: its process, the clients that it serves, and its session."""

from __future__ import annotations

import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from soma_core.transport import WorkerProcess
from soma_transport_socket import control
from soma_transport_socket.board import Board
from soma_transport_socket.peers import PicklePolicy

__all__ = ["PATIENCE", "Session", "SessionKey", "Worker"]

PATIENCE = 1.0  # seconds for a worker to end by itself after its client is gone
_GENTLE = 0.5  # and after SIGTERM: with both it is gone within 2 s


class SessionKey(NamedTuple):
    """What tells sessions apart: users who share a daemon do not share sessions."""

    uid: int
    name: str


@dataclass
class Session:
    """What a worker has that is shared by clients who come and go.

    Attributes:
        key: Whose it is, and what its clients call it.
        pickle: The policy of its engine.
        control: The socket on which its worker is told who comes.
        board: Where its worker writes what it runs.
        empty_since: When the last client left; None while there is one.
    """

    key: SessionKey
    pickle: PicklePolicy
    control: socket.socket
    board: Board
    empty_since: float | None = None


@dataclass
class Worker:
    """A worker process and the connections that it serves.

    Attributes:
        id: What clients call it.
        process: The process.
        clients: Their connections by number, kept to notice that a client is gone.
        session: Of a shared one.
    """

    id: str
    process: WorkerProcess
    clients: dict[int, socket.socket] = field(default_factory=dict)
    session: Session | None = None
    _last_client: int = 0
    _end_at: float | None = None
    _next_signal: signal.Signals = signal.SIGTERM

    @property
    def deadline(self) -> float | None:
        """When it is made to end, if it has not ended by itself."""
        return self._end_at

    def number(self, connection: socket.socket) -> int:
        """Note a client; the number is its own as long as the worker lives."""
        self._last_client += 1
        self.clients[self._last_client] = connection
        if self.session is not None:
            self.session.empty_since = None
        return self._last_client

    def must_end(self) -> None:
        """Give it a little time to end by itself."""
        if self._end_at is None:
            self._end_at = time.monotonic() + PATIENCE

    def push_if_due(self, now: float) -> None:
        """Make it end if it was given long enough: first gently, then not."""
        if self._end_at is not None and now >= self._end_at:
            self.process.signal_group(self._next_signal)
            self._next_signal = signal.SIGKILL
            self._end_at = now + _GENTLE

    def interrupt(self, client: int) -> None:
        """Interrupt the command of a client; 0 stands for whichever runs."""
        if self.session is None:
            self.process.interrupt()
            return
        with suppress(OSError):  # it has been told often enough, or it has ended
            control.say(self.session.control, control.Said("interrupt", client))
        self.process.interrupt()

    def forget(self, client: int) -> None:
        """Count a client no more; its connection is the caller's."""
        del self.clients[client]
        if self.session is not None and not self.clients:
            self.session.empty_since = time.monotonic()

    def lost(self, client: int) -> None:
        """Note that a client has hung up: what it asked for is nobody's wish any more."""
        self.clients[client].close()
        self.forget(client)
        if self.session is None:
            self.must_end()  # it will by itself, unless it is deep in a command
            return
        activity = self.session.board.read()
        if activity is not None and activity.client == client:
            with suppress(OSError):
                control.say(self.session.control, control.Said("gone", client))
            self.process.interrupt()

    def finish(self) -> None:
        """Let it end what runs and what was sent already, and then itself."""
        for connection in self.clients.values():
            with suppress(OSError):  # the client was faster
                connection.shutdown(socket.SHUT_RD)
        if self.session is not None:
            with suppress(OSError):  # it has ended
                control.say(self.session.control, control.Said("finish", 0))

    def close(self) -> None:
        """Let go of what belonged to it; it has ended."""
        self.process.release()
        for connection in self.clients.values():
            connection.close()
        if self.session is not None:
            self.session.control.close()
            self.session.board.close()
