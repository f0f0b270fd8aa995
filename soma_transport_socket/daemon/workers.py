"""A worker as the daemon knows it: its process, and the clients whose connections it serves."""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from soma_core.transport import Deadline, ExitStatus, WorkerProcess
from soma_transport_socket.messages import Answer, PicklePolicy, SessionEvent, send
from soma_transport_socket.worker.activity import Activity, SharedActivity

__all__ = ["PATIENCE", "Session", "SessionKey", "SupervisedWorker"]

PATIENCE = 1.0  # seconds for a worker to end by itself after its client is gone
_GENTLE = 0.5  # and after SIGTERM: with both it is gone within 2 s
_LONGEST_TAIL = 16_384  # characters of a worker's stderr that an answer carries
_LAST_WORDS = 0.05  # seconds to wait for them: everybody else waits too


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
        idle_timeout: Seconds that it may be without a client; None for any.
        events: Where its worker is told what clients do.
        activity: Where its worker writes what it runs.
        idle: When it has been without a client for so long; never, while it has one.
    """

    key: SessionKey
    pickle: PicklePolicy
    idle_timeout: float | None
    events: socket.socket
    activity: SharedActivity
    idle: Deadline = field(default_factory=Deadline)

    def join(self, client: int, descriptors: Sequence[int]) -> None:
        """Hand a client's connection to the worker.

        Raises:
            OSError: The worker has ended, or has not listened for long.
        """
        send(self.events, SessionEvent(kind="join", client=client), descriptors)

    def tell(self, kind: Literal["interrupt", "gone", "finish"], client: int = 0) -> None:
        """Tell the worker what a client does, if it listens."""
        with suppress(OSError):  # it has ended, or it was told often enough
            send(self.events, SessionEvent(kind=kind, client=client))

    def running(self) -> Activity | None:
        """The command that runs, if one does."""
        return self.activity.read()

    def is_running_for(self, client: int) -> bool:
        """Whether the command that runs is this client's."""
        activity = self.running()
        return activity is not None and activity.client == client

    def close(self) -> None:
        """Let go of it; its worker has ended."""
        self.events.close()
        self.activity.close()


@dataclass
class SupervisedWorker:
    """A worker process and the connections that it serves.

    Attributes:
        id: What clients call it.
        process: The process.
        session: What it has besides, if clients share it.
        clients: Their connections by number, kept to notice that a client is gone.
        end_by: When it is made to end, if it has not ended by itself.
    """

    id: str
    process: WorkerProcess
    session: Session | None = None
    clients: dict[int, socket.socket] = field(default_factory=dict)
    end_by: Deadline = field(default_factory=Deadline)
    _last_client: int = 0
    _next_signal: signal.Signals = signal.SIGTERM

    def add(self, connection: socket.socket) -> int:
        """Note a client; the number is its own as long as the worker lives."""
        self._last_client += 1
        self.clients[self._last_client] = connection
        if self.session is not None:
            self.session.idle = Deadline()
        return self._last_client

    def remove(self, client: int) -> None:
        """Count a client no more; its connection is the caller's."""
        del self.clients[client]
        if self.session is not None and not self.clients:
            self.session.idle = Deadline.after(self.session.idle_timeout)

    def hung_up(self, client: int) -> None:
        """Note that a client is gone: nobody waits for what it asked for."""
        self.clients[client].close()
        self.remove(client)
        if self.session is None:
            self.must_end()  # it will by itself, unless it is deep in a command
        elif self.session.is_running_for(client):
            self.session.tell("gone", client)
            self.process.interrupt()

    def interrupt(self, client: int = 0) -> None:
        """Interrupt the command of a client; 0 stands for whichever runs."""
        if self.session is not None:
            self.session.tell("interrupt", client)
        self.process.interrupt()

    def finish(self) -> None:
        """Let it end what runs and what was sent already, and then itself."""
        for connection in self.clients.values():
            with suppress(OSError):  # the client was faster
                connection.shutdown(socket.SHUT_RD)
        if self.session is not None:
            self.session.tell("finish")

    def must_end(self) -> None:
        """Give it a little time to end by itself."""
        if self.end_by == Deadline():
            self.end_by = Deadline.after(PATIENCE)

    def push_if_due(self) -> None:
        """Make it end if it was given long enough: first gently, then not."""
        if self.end_by.over():
            self.process.signal_group(self._next_signal)
            self._next_signal = signal.SIGKILL
            self.end_by = Deadline.after(_GENTLE)

    def last_answer(self, status: ExitStatus) -> Answer:
        """What a client is answered that asks how it ended."""
        return Answer(
            ok=True,
            worker=self.id,
            pid=self.process.pid,
            ended=True,
            code=status.code,
            signal=status.signal,
            stderr=self.process.stderr_tail(_LAST_WORDS)[-_LONGEST_TAIL:],
        )

    def close(self) -> None:
        """Let go of what belonged to it; it has ended."""
        self.process.release()
        for connection in self.clients.values():
            connection.close()
        if self.session is not None:
            self.session.close()
