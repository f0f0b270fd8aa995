"""A worker as the daemon knows it: its process, and the clients whose connections it serves."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import termios
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from soma_core.errors import StartFailed
from soma_core.transport import Deadline, ExitStatus, OutputPump, WorkerInfo, WorkerProcess
from soma_transport_socket import address
from soma_transport_socket.daemon.left_open import LeftOpen
from soma_transport_socket.messages import (
    FINISH,
    Answer,
    Attached,
    Brought,
    PicklePolicy,
    SessionEvent,
    send,
)
from soma_transport_socket.worker.activity import Activity, SharedActivity

PATIENCE = 1.0  # seconds for a worker to end by itself after its client is gone
_TIDYING = 2.0  # and more for one that has begun to, and runs the exit handlers of its filters
_GENTLE = 0.5  # and after SIGTERM: with both it is gone within 2 s
_LONGEST_TAIL = 16_384  # characters of what a worker printed that an answer carries
_LAST_WORDS = 0.05  # seconds to wait for them: everybody else waits too
_MUCH = 1 << 14  # bytes in a pipe that may be full
_INT = struct.Struct("@i")


class Client:
    """A client, as the daemon keeps it: to notice that it is gone, or does not read.

    Args:
        connection: Its connection.
        brought: What else it brought. It stays the caller's: copies are kept.
        left_open: Where its pipe goes when it leaves.

    Attributes:
        watched: What hangs up when the client is gone: the socket for shared memory if it
            brought one, which it closes with its channel; else the connection.

    Raises:
        OSError: This process has no descriptors left.
    """

    def __init__(
        self, connection: socket.socket, brought: Mapping[Brought, int], left_open: LeftOpen
    ) -> None:
        self._uid = address.peer_uid(connection)
        self._left_open = left_open
        self.watched = self._connection = connection
        if "memory" in brought:
            self.watched = socket.socket(fileno=os.dup(brought["memory"]))
        self._printed = os.dup(brought["printed"]) if "printed" in brought else None
        self._unread = 0

    def let_go(self) -> None:
        """Leave the connection to its worker alone, where it is not needed to watch the client.

        So the client sees at once that its worker has closed it, whatever became of the worker.
        """
        if self.watched is not self._connection:
            self._connection.close()

    def send_no_more(self) -> bool:
        """End what the client can send, if the connection is still here."""
        if self.watched is not self._connection:
            return False
        with suppress(OSError):  # the client was faster
            self._connection.shutdown(socket.SHUT_RD)
        return True

    def relieve(self) -> int:
        """Empty the pipe of a client that does not read it, so that its session can go on.

        Called about once a second.

        Returns:
            How many bytes were dropped.
        """
        if self._printed is None:
            return 0
        before, self._unread = self._unread, _bytes_in(self._printed)
        if self._unread < _MUCH or self._unread != before:
            return 0
        return drop_bytes(self._printed, self._unread)

    def close(self, name: str) -> None:
        """Let go of it; what children of its commands still print is shown here.

        Args:
            name: What to call the worker that prints.
        """
        self._connection.close()
        self.watched.close()
        printed, self._printed = self._printed, None
        if printed is None:
            return
        of_ours = self._uid == os.getuid()  # others could write into our log as they like
        try:
            pump = OutputPump("stderr" if of_ours else "devnull", reading=printed)
        except StartFailed:  # there is nothing left to read it with
            os.close(printed)
            return
        with suppress(StartFailed):  # it is closed then
            pump.start(name)
        self._left_open.add(self._uid, lambda: pump.reads, pump.stop)


def drop_bytes(pipe: int, count: int) -> int:
    """Take so many bytes out of a pipe, as far as they are still there; returns how many were."""
    try:
        with open(os.devnull, "wb", buffering=0) as nowhere:
            return os.splice(pipe, nowhere.fileno(), count, flags=os.SPLICE_F_NONBLOCK)
    except OSError:  # they have been read meanwhile, or there is no descriptor left
        return 0


def _bytes_in(pipe: int) -> int:
    (size,) = _INT.unpack(fcntl.ioctl(pipe, termios.FIONREAD, bytes(_INT.size)))
    return int(size)


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
        events: Where its worker learns what clients do.
        activity: Where its worker writes what it runs.
        idle: When it has been without a client for so long; never, while it has one.
    """

    key: SessionKey
    pickle: PicklePolicy
    idle_timeout: float | None
    events: socket.socket
    activity: SharedActivity
    idle: Deadline = field(default_factory=Deadline)

    def join(self, client: int, attached: Mapping[Attached, int]) -> None:
        """Hand over what a client has to the worker.

        Raises:
            OSError: The worker has ended, or has not listened for long.
        """
        send(self.events, SessionEvent(kind="join", client=client), attached)

    def tell(self, kind: Literal["interrupt", "gone", "finish"], client: int = 0) -> None:
        """Tell the worker what a client does, if it listens."""
        with suppress(OSError):  # it has ended, or its queue is full
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
        warning: What is not as it should be with it, for its clients.
        clients: Those that it serves, by number.
        end_by: When it is made to end, if it has not ended by itself.
        uid: The user whose it is.
        since: When it was started (``time.monotonic``).
    """

    id: str
    process: WorkerProcess
    session: Session | None = None
    warning: str | None = None
    clients: dict[int, Client] = field(default_factory=dict)
    end_by: Deadline = field(default_factory=Deadline)
    uid: int = field(default_factory=os.getuid)
    since: float = field(default_factory=time.monotonic)
    _last_client: int = 0
    _next_signal: signal.Signals = signal.SIGTERM
    _interrupted: bool = False
    _tidies_up: bool = False
    _finishes: bool = False

    @property
    def name(self) -> str:
        """What to call it where something is shown that it printed."""
        if self.session is None:
            return f"worker {self.process.pid}"
        return f"session {self.session.key.name}"

    def add(self, client: Client) -> int:
        """Note a client; the number is its own as long as the worker lives."""
        self._last_client += 1
        self.clients[self._last_client] = client
        if self.session is not None:
            self.session.idle = Deadline()
        return self._last_client

    def remove(self, client: int) -> None:
        """Count a client no more; it is the caller's to close."""
        del self.clients[client]
        if self.session is not None and not self.clients:
            self.session.idle = Deadline.after(self.session.idle_timeout)

    def hung_up(self, client: int) -> None:
        """Note that a client is gone: nobody waits for what it asked for."""
        self.clients[client].close(self.name)
        self.remove(client)
        if self.session is None:
            self.process.interrupt()  # what it runs: then it ends by itself
            self.must_end()
        elif self.session.is_running_for(client):
            self.session.tell("gone", client)
            self.process.interrupt()

    def interrupt(self, client: int = 0) -> None:
        """Interrupt the command of a client; 0 stands for whichever runs."""
        if self.session is not None:
            self.session.tell("interrupt", client)
        self.process.interrupt()

    def finish(self) -> None:
        """Let it end what runs and what was sent already, and then itself.

        To be called again until it has ended: while a worker starts, it does not listen.
        """
        if self.session is not None:
            if not self._finishes:
                self.session.tell("finish")
        elif not any(client.send_no_more() for client in self.clients.values()):
            self.process.send_signal(FINISH)
        self._finishes = True

    def must_end(self) -> None:
        """Give it a little time to end by itself."""
        if self.end_by == Deadline():
            self.end_by = Deadline.after(PATIENCE / 2)

    def push_if_due(self) -> None:
        """Make it end if it was given long enough: first what it runs, then itself, then by force.

        A command may not have begun when it was interrupted first.
        """
        if not self.end_by.over():
            return
        if not self._tidies_up and self.process.is_ending():
            self._tidies_up = True
            self.end_by = Deadline.after(_TIDYING)
        else:
            self._push()

    def _push(self) -> None:
        if not self._interrupted:
            self._interrupted = True
            self.process.interrupt()
            self.end_by = Deadline.after(PATIENCE / 2)
        else:
            self.process.signal_group(self._next_signal)
            self._next_signal = signal.SIGKILL
            self.end_by = Deadline.after(_GENTLE)

    def info(self) -> WorkerInfo:
        """What ``soma status`` shows of it."""
        runs = None if self.session is None else self.session.running()
        return WorkerInfo(
            pid=self.process.pid,
            session=None if self.session is None else self.session.key.name,
            clients=len(self.clients),
            seconds=time.monotonic() - self.since,
            command=None if runs is None else runs.command,
            node_id=None if runs is None else runs.node_id,
            memory=resident_memory(self.process.pid),
        )

    def last_answer(self, status: ExitStatus) -> Answer:
        """What a client is answered that asks how it ended."""
        return Answer(
            ok=True,
            worker=self.id,
            pid=self.process.pid,
            ended=True,
            code=status.code,
            signal=status.signal,
            stderr=self.process.output_tail(_LAST_WORDS)[-_LONGEST_TAIL:],
        )

    def close(self) -> None:
        """Let go of what belonged to it; it has ended."""
        self.process.release()
        for client in self.clients.values():
            client.close(self.name)
        if self.session is not None:
            self.session.close()


def resident_memory(pid: int) -> int:
    """Bytes that a process has in memory; 0 once it has ended."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except (psutil.Error, OSError):  # or there is no descriptor left to look with
        return 0
