"""The supervisor: accepts connections and gives each a worker process; owns no filters.

One thread, one poll loop. A worker inherits its connection and talks to the client directly;
the supervisor keeps the connection only to notice that the client is gone.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from soma_core.process import WorkerProcess
from soma_core.threads import thread_limits
from soma_transport_socket import address
from soma_transport_socket.peers import Peers, PicklePolicy
from soma_transport_socket.routing import MAGIC, Answer, Request

__all__ = ["Supervisor"]

_log = logging.getLogger("soma.supervisor")
_REMEMBERED = 256  # ended workers whose exit status can still be asked for
_LONGEST_REQUEST = 4096
_LONGEST_TAIL = 16_384  # characters of a worker's stderr that an answer carries
_LAST_WORDS = 0.05  # seconds to wait for them: everybody else waits too
_HANGUP = select.POLLHUP | select.POLLERR
_SECOND_LOOK = 0.05
_PATIENCE = 1.0  # seconds for a worker to end by itself after its client is gone
_GENTLE = 0.5  # and after SIGTERM: with both it is gone within 2 s


@dataclass
class _Worker:
    """A worker process and the connection that it serves."""

    id: str
    process: WorkerProcess
    connection: socket.socket
    end_at: float | None = None
    next_signal: signal.Signals = signal.SIGTERM

    def due(self, now: float) -> bool:
        """Whether it was given long enough to end by itself."""
        return self.end_at is not None and now >= self.end_at

    def push(self, now: float) -> None:
        """Make it end: first gently, then not."""
        self.process.signal_group(self.next_signal)
        self.next_signal = signal.SIGKILL
        self.end_at = now + _GENTLE


class Supervisor:
    """Serves a socket until SIGTERM or SIGINT.

    Args:
        path: Where to listen.
        pickle: ``"never"`` makes every worker refuse pickles, whatever the client asks for.
        let_in: Other users that are served, by uid; always without pickles.

    Raises:
        StartFailed: It cannot listen there.
    """

    def __init__(
        self, path: Path, *, pickle: PicklePolicy = "same-user", let_in: Iterable[int] = ()
    ) -> None:
        self.path = path
        self._pickle = pickle
        self._peers = Peers(let_in)
        self._listening = address.bind(path, for_others=bool(self._peers.others))
        self._inode = path.stat().st_ino
        self._listening.setblocking(False)
        self._poller = select.poll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._workers: dict[str, _Worker] = {}
        self._ended: OrderedDict[str, Answer] = OrderedDict()
        self._unsure: dict[int, float] = {}
        self._stopping = False
        self._watch(self._listening, select.POLLIN, self._accept)

    def run(self) -> None:
        """Serve until told to stop; then end the workers and remove the socket."""
        woken, wakes = socket.socketpair()
        for end in (woken, wakes):
            end.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _ignore)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._watch(woken, select.POLLIN, lambda _: _drain(woken))
        try:
            while not self._stopping:
                self._step()
        finally:
            self._shut_down()

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _step(self) -> None:
        for fd, events in self._poller.poll(self._patience()):
            self._handle(fd, events)
        self._look_again()
        self._reap()
        now = time.monotonic()
        for worker in self._workers.values():
            if worker.due(now):
                worker.push(now)

    def _handle(self, fd: int, events: int) -> None:
        """Attend to one descriptor; what goes wrong with it is no other client's business."""
        handler = self._handlers.get(fd)
        if handler is None:
            return
        try:
            handler(events)
        except Exception:
            _log.exception("a connection could not be attended to, and is dropped")
            self._unsure.pop(fd, None)
            if self._handlers.pop(fd, None) is not None:
                self._poller.unregister(fd)

    def _patience(self) -> float | None:
        """Milliseconds until something is due that no event will tell; None if nothing is."""
        if self._unsure:
            return _SECOND_LOOK * 1000
        ends = [worker.end_at for worker in self._workers.values() if worker.end_at is not None]
        return max(0.0, min(ends) - time.monotonic()) * 1000 if ends else None

    def _watch(self, source: socket.socket, events: int, handler: Callable[[int], None]) -> None:
        self._handlers[source.fileno()] = handler
        self._poller.register(source, events)

    def _forget(self, source: socket.socket) -> None:
        self._poller.unregister(source)
        del self._handlers[source.fileno()]
        self._unsure.pop(source.fileno(), None)

    def _accept(self, events: int) -> None:
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, ConnectionError):  # it was gone again
            return
        except OSError:  # we are out of descriptors: let some go before looking again
            time.sleep(_SECOND_LOOK)
            return
        connection.setblocking(False)
        if not self._peers.serves(connection):
            self._refuse(connection, f"this daemon serves {self._peers}, and nobody else")
            return
        self._watch(connection, select.POLLIN, lambda events: self._read(connection, events))

    def _read(self, connection: socket.socket, events: int) -> None:
        """A new connection says something: a request to us, or already the protocol."""
        try:
            start = connection.recv(_LONGEST_REQUEST, socket.MSG_PEEK)
        except OSError:
            start = b""
        if not start or events & _HANGUP:
            self._forget(connection)
            connection.close()
            return
        if len(start) < len(MAGIC) and MAGIC.startswith(start) and self._wait_for_more(connection):
            return
        self._forget(connection)
        if not start.startswith(MAGIC):
            self._start_worker(connection, Request(op="connect"))
            return
        self._answer(connection, start)

    def _wait_for_more(self, connection: socket.socket) -> bool:
        """Whether to look again later at a connection that has said too little to be told."""
        now = time.monotonic()
        until = self._unsure.setdefault(connection.fileno(), now + _PATIENCE)
        if now >= until:
            return False
        self._poller.modify(connection, 0)  # what it said would wake us over and over
        return True

    def _look_again(self) -> None:
        for fd in list(self._unsure):
            self._handle(fd, 0)

    def _answer(self, connection: socket.socket, start: bytes) -> None:
        end = start.find(b"\n")
        if end < 0:
            self._refuse(connection, "a request is one line, sent at once")
            return
        with ExitStack() as handed:
            _, fds, _, _ = socket.recv_fds(connection, end + 1, 1)
            for fd in fds:
                handed.callback(os.close, fd)
            try:
                request = Request.model_validate_json(start[len(MAGIC) : end])
                sides = [handed.enter_context(socket.socket(fileno=os.dup(fd))) for fd in fds]
            except ValidationError as error:
                self._refuse(connection, f"not a request: {error.error_count()} problems")
                return
            except OSError as error:
                self._refuse(connection, f"what was handed over is not a socket: {error}")
                return
            if request.op == "connect":
                self._connect(connection, request, sides[0] if sides else None)
            else:
                _send(connection, self._attend_to(request))
                connection.close()

    def _connect(
        self, connection: socket.socket, request: Request, side: socket.socket | None
    ) -> None:
        worker = self._start_worker(connection, request, side)
        if worker is not None:
            _send(connection, Answer(ok=True, worker=worker.id, pid=worker.process.pid))

    def _start_worker(
        self, connection: socket.socket, request: Request, side: socket.socket | None = None
    ) -> _Worker | None:
        fd = connection.fileno()
        pickle = self._peers.policy(connection, [self._pickle, request.pickle])
        command = [sys.executable, "-P", "-m", "soma_transport_socket.worker", str(fd), pickle]
        try:
            limits = thread_limits(request.threads)
            process = WorkerProcess(command, side=side, pass_fds=[fd], env=limits)
        except Exception as error:
            self._refuse(connection, f"cannot start a worker: {error}")
            return None
        worker = _Worker(uuid.uuid4().hex, process, connection)
        self._workers[worker.id] = worker
        self._watch(connection, 0, lambda events: self._hung_up(worker, events))
        return worker

    def _hung_up(self, worker: _Worker, events: int) -> None:
        """The client is gone: its worker ends by itself, unless it is deep in a command."""
        if events & _HANGUP:
            self._forget(worker.connection)
            worker.end_at = time.monotonic() + _PATIENCE

    def _attend_to(self, request: Request) -> Answer:
        """Do what a client asks about its worker."""
        worker_id = request.worker or ""
        if worker_id in self._ended:
            return self._ended[worker_id]
        worker = self._workers.get(worker_id)
        if worker is None:
            return Answer(ok=False, error=f"there is no worker {request.worker!r}")
        if request.op == "interrupt":
            worker.process.interrupt()
        elif request.op == "terminate":
            worker.process.signal_group(signal.SIGTERM)
        elif request.op == "kill":
            worker.process.signal_group(signal.SIGKILL)
        return Answer(ok=True, worker=worker.id, pid=worker.process.pid)

    def _reap(self) -> None:
        for worker in list(self._workers.values()):
            status = worker.process.poll()
            if status is None:
                continue
            del self._workers[worker.id]
            if worker.connection.fileno() in self._handlers:
                self._forget(worker.connection)
            worker.process.release()
            self._ended[worker.id] = Answer(
                ok=True,
                worker=worker.id,
                pid=worker.process.pid,
                ended=True,
                code=status.code,
                signal=status.signal,
                stderr=worker.process.stderr_tail(_LAST_WORDS)[-_LONGEST_TAIL:],
            )
            worker.connection.close()
            while len(self._ended) > _REMEMBERED:
                self._ended.popitem(last=False)

    def _refuse(self, connection: socket.socket, reason: str) -> None:
        _send(connection, Answer(ok=False, error=reason))
        connection.close()

    def _shut_down(self) -> None:
        """Stop listening first, then end the workers, all at once."""
        self._listening.close()
        with suppress(FileNotFoundError):  # somebody tidied up before us
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        for worker in self._workers.values():
            worker.process.signal_group(signal.SIGTERM)
        for worker in self._workers.values():
            worker.process.stop(_PATIENCE)
            worker.connection.close()


def _send(connection: socket.socket, answer: Answer) -> None:
    with suppress(OSError):  # the client is gone; its hang-up is noticed elsewhere
        connection.sendall(answer.to_bytes())


def _drain(source: socket.socket) -> None:
    with suppress(BlockingIOError):  # the signal's byte was read with those before it
        source.recv(4096)


def _ignore(signum: int, frame: FrameType | None) -> None:
    """Only the byte in the wake-up socket matters."""
