"""The supervisor: accepts connections and gives each a worker process; owns no filters.

One thread, one poll loop. A worker is handed its client's connection, or those of all clients of
a session, and talks to them directly; the supervisor keeps a connection only to notice that the
client is gone.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from soma_core.errors import SomaError, StartFailed
from soma_core.transport import ExitStatus, WorkerProcess
from soma_transport_socket import address, control
from soma_transport_socket.board import Board
from soma_transport_socket.handing import receive
from soma_transport_socket.launching import (
    TemplateProcess,
    adopt_orphans,
    forget_orphans,
    start_afresh,
)
from soma_transport_socket.orders import Order
from soma_transport_socket.peers import Peers, PicklePolicy
from soma_transport_socket.routing import MAGIC, Answer, Request, SessionEntry
from soma_transport_socket.workers import PATIENCE, Session, SessionKey, Worker

__all__ = ["Limits", "Supervisor"]

_log = logging.getLogger("soma.supervisor")
_REMEMBERED = 256  # ended workers whose exit status can still be asked for
_LONGEST_REQUEST = 4096
_LONGEST_TAIL = 16_384  # characters of a worker's stderr that an answer carries
_LAST_WORDS = 0.05  # seconds to wait for them: everybody else waits too
_HANGUP = select.POLLHUP | select.POLLERR
_SECOND_LOOK = 0.05
_PATIENCE = 1.0  # seconds for a client to say the rest of a request


@dataclass(frozen=True)
class Limits:
    """What a daemon allows.

    Attributes:
        sessions: How many sessions there may be at once; None for any number.
        memory: Bytes that each worker may take for itself; None for any number.
        idle: Seconds after which a session without a client ends; None for never.
        grace: Seconds that running commands are given when the daemon is told to end.
    """

    sessions: int | None = None
    memory: int | None = None
    idle: float | None = None
    grace: float = 10.0


class Supervisor:
    """Serves a socket until SIGTERM or SIGINT; a second one does not wait for anything.

    Args:
        path: Where to listen.
        pickle: ``"never"`` makes every worker refuse pickles, whatever the client asks for.
        let_in: Other users that are served, by uid; always without pickles.
        preload: Modules that a template process imports, from which workers are forked.
        limits: What it allows.
    """

    def __init__(
        self,
        path: Path,
        *,
        pickle: PicklePolicy = "same-user",
        let_in: Iterable[int] = (),
        preload: Sequence[str] = (),
        limits: Limits | None = None,
    ) -> None:
        self.path = path
        self._preload = preload
        self._limits = limits or Limits()
        self._template: TemplateProcess | None = None
        self._failure: StartFailed | None = None
        self._pickle = pickle
        self._peers = Peers(let_in)
        self._poller = select.poll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._workers: dict[str, Worker] = {}
        self._sessions: dict[SessionKey, Worker] = {}
        self._ended: OrderedDict[str, Answer] = OrderedDict()
        self._unsure: dict[int, float] = {}
        self._signals = 0
        self._end_at: float | None = None

    def run(self, announce: Callable[[], None] = lambda: None) -> None:
        """Serve until told to stop; then let commands end, end the workers, remove the socket.

        Args:
            announce: Called when clients are served; those that came before have waited.

        Raises:
            StartFailed: It cannot listen there, or a module cannot be preloaded.
        """
        woken, wakes = socket.socketpair()
        for end in (woken, wakes):
            end.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _ignore)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._watch(woken, select.POLLIN, lambda _: _drain(woken))
        if self._preload:
            adopt_orphans()
        listening = address.bind(self.path, for_others=bool(self._peers.others))
        listening.setblocking(False)
        inode = self.path.stat().st_ino

        def serve_clients() -> None:
            self._watch(listening, select.POLLIN, lambda _: self._accept(listening))
            announce()

        try:
            if self._preload:
                self._start_template(serve_clients)
            else:
                serve_clients()
            while not self._done():
                self._step()
        finally:
            listening.close()
            self._remove_socket(inode)
            self._end_workers()
        if self._failure is not None:
            raise self._failure

    def _start_template(self, serve_clients: Callable[[], None] | None = None) -> None:
        """Start a template.

        Args:
            serve_clients: Called when the first one is ready; clients that came have waited.
        """
        template = self._template = TemplateProcess(self._preload)

        def hear(events: int) -> None:
            was_ready = template.ready
            try:
                template.hear()
            except StartFailed as error:
                self._end_template(template)
                if was_ready:
                    _log.warning("--preload: %s; another one is started", error)
                    self._start_template()
                elif serve_clients is not None:
                    self._failure = StartFailed(f"--preload: {error}")
                    self._signals = 1
                else:
                    _log.warning("--preload: %s; workers are started afresh from now on", error)
            else:
                if serve_clients is not None and not was_ready:
                    serve_clients()

        self._watch(template.control, select.POLLIN, hear)

    def _end_template(self, template: TemplateProcess) -> None:
        self._forget(template.control)
        template.end()
        self._template = None

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _done(self) -> bool:
        """Whether to stop serving; the first signal lets the workers finish."""
        if not self._signals:
            return False
        now = time.monotonic()
        if self._end_at is None:
            self._end_at = now + self._limits.grace
            for worker in self._workers.values():
                worker.finish()
        return not self._workers or self._signals > 1 or now >= self._end_at

    def _step(self) -> None:
        for fd, events in self._poller.poll(self._patience()):
            self._handle(fd, events)
        self._look_again()
        self._reap()
        if self._template is not None:
            self._template.drop_dead_spare()
        if self._preload:
            forget_orphans(self._known_processes())
        now = time.monotonic()
        for worker in self._workers.values():
            worker.push_if_due(now)
        for worker in list(self._sessions.values()):
            if now >= self._idle_until(worker):
                self._end_session(worker)

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
        deadlines = [worker.deadline for worker in self._workers.values()]
        deadlines += [self._idle_until(worker) for worker in self._sessions.values()]
        due = [at for at in (*deadlines, self._end_at) if at is not None and at != inf]
        return max(0.0, min(due) - time.monotonic()) * 1000 if due else None

    def _idle_until(self, worker: Worker) -> float:
        """When a session has had no client for too long."""
        since = None if worker.session is None else worker.session.empty_since
        return inf if since is None or self._limits.idle is None else since + self._limits.idle

    def _watch(self, source: socket.socket, events: int, handler: Callable[[int], None]) -> None:
        self._handlers[source.fileno()] = handler
        self._poller.register(source, events)

    def _forget(self, source: socket.socket) -> None:
        self._poller.unregister(source)
        del self._handlers[source.fileno()]
        self._unsure.pop(source.fileno(), None)

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
            self._connect(connection, Request(op="serve"), ())
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
            _, fds = receive(connection, end + 1)
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
                self._connect(connection, request, sides)
            else:
                _send(connection, self._attend_to(request, address.peer_uid(connection)))
                connection.close()

    def _connect(
        self, connection: socket.socket, request: Request, sides: Sequence[socket.socket]
    ) -> None:
        """Give a client the worker that it asked for.

        A client that speaks the protocol straight away has asked for one of its own.
        """
        descriptors = [end.fileno() for end in (connection, *sides[:1])]
        order = Order(
            shared=request.session is not None,
            pickle=self._peers.policy(connection, [self._pickle, request.pickle]),
            threads=request.threads,
        )
        try:
            if self._signals:
                raise _Refused("this daemon is ending, and takes no clients any more")
            if request.session is None:
                worker = self._start_worker(order, descriptors)
                client = worker.number(connection)
            else:
                key = SessionKey(address.peer_uid(connection), request.session)
                worker = self._session(key, order)
                client = self._join(worker, connection, descriptors)
        except (_Refused, OSError, SomaError) as error:
            self._refuse(connection, str(error))
            return
        self._watch(connection, 0, lambda events: self._hung_up(worker, client, events))
        if request.op == "connect":
            answer = Answer(ok=True, worker=worker.id, pid=worker.process.pid, client=client)
            _send(connection, answer)

    def _start_worker(self, order: Order, descriptors: Sequence[int]) -> Worker:
        try:
            process = self._launch(order, descriptors)
        except (OSError, StartFailed) as error:
            raise _Refused(f"cannot start a worker: {error}") from error
        worker = Worker(uuid.uuid4().hex, process)
        self._workers[worker.id] = worker
        return worker

    def _session(self, key: SessionKey, order: Order) -> Worker:
        """The worker of a user's session, started if there is none.

        Raises:
            _Refused: It has another policy, or there are too many.
        """
        worker = self._sessions.get(key)
        if worker is None:
            return self._start_session(key, order)
        if worker.session is not None and worker.session.pickle != order.pickle:
            raise _Refused(
                f"the session {key.name!r} was started with pickle={worker.session.pickle!r}, and "
                f"this client has pickle={order.pickle!r}; use the same, or another session"
            )
        return worker

    def _start_session(self, key: SessionKey, order: Order) -> Worker:
        most = self._limits.sessions
        if most is not None and len(self._sessions) >= most:
            raise _Refused(
                f"there are {len(self._sessions)} sessions, and --max-sessions allows no more; end "
                "one with: soma sessions stop NAME"
            )
        with ExitStack() as ours, ExitStack() as theirs:
            control_end, their_end = control.pair()
            ours.enter_context(control_end)
            theirs.enter_context(their_end)
            memory = Board.new_file()
            theirs.callback(os.close, memory)
            board = Board(memory)
            ours.callback(board.close)
            worker = self._start_worker(order, [their_end.fileno(), memory])
            ours.pop_all()
        worker.session = Session(key, order.pickle, control_end, board)
        self._sessions[key] = worker
        return worker

    def _join(self, worker: Worker, connection: socket.socket, descriptors: Sequence[int]) -> int:
        assert worker.session is not None
        client = worker.number(connection)
        try:
            control.say(worker.session.control, control.Said("join", client), descriptors)
        except OSError as error:
            worker.forget(client)
            raise _Refused(
                f"the session {worker.session.key.name!r} does not listen ({error}); try again, or "
                f"end it with: soma sessions stop {worker.session.key.name}"
            ) from error
        return client

    def _end_session(self, worker: Worker) -> None:
        """End a session for all its clients, whatever runs."""
        assert worker.session is not None
        del self._sessions[worker.session.key]
        worker.interrupt(0)
        worker.finish()
        worker.must_end()

    def _launch(self, order: Order, descriptors: Sequence[int]) -> WorkerProcess:
        """Fork a worker from the template if that can be, else start one afresh."""
        order = replace(order, memory_limit=self._limits.memory)
        template = self._template
        if template is None or not template.ready:
            return start_afresh(order, descriptors)
        try:
            return template.take(order, descriptors)
        except StartFailed as error:
            _log.warning("--preload: %s; this worker is started afresh", error)
        if not template.ready:
            self._end_template(template)
            self._start_template()
        return start_afresh(order, descriptors)

    def _known_processes(self) -> set[int]:
        known = {worker.process.pid for worker in self._workers.values()}
        return known if self._template is None else known | self._template.pids

    def _hung_up(self, worker: Worker, client: int, events: int) -> None:
        if events & _HANGUP:
            self._forget(worker.clients[client])
            worker.lost(client)

    def _attend_to(self, request: Request, uid: int) -> Answer:
        """Do what a client asks about its worker, or about its user's sessions."""
        if request.op == "sessions":
            entries = [_entry(worker) for key, worker in self._sessions.items() if key.uid == uid]
            return Answer(ok=True, sessions=entries)
        if request.op == "stop":
            return self._stop_session(SessionKey(uid, request.session or ""))
        worker_id = request.worker or ""
        if worker_id in self._ended:
            return self._ended[worker_id]
        worker = self._workers.get(worker_id)
        if worker is None:
            return Answer(ok=False, error=f"there is no worker {request.worker!r}")
        if request.op == "interrupt":
            worker.interrupt(request.client or 0)
        elif request.op == "terminate":
            worker.process.signal_group(signal.SIGTERM)
        elif request.op == "kill":
            worker.process.signal_group(signal.SIGKILL)
        return Answer(ok=True, worker=worker.id, pid=worker.process.pid)

    def _stop_session(self, wanted: SessionKey) -> Answer:
        worker = self._sessions.get(wanted)
        if worker is None:
            names = sorted(key.name for key in self._sessions if key.uid == wanted.uid)
            known = ", ".join(names) or "none"
            error = f"there is no session {wanted.name!r}; there are: {known}"
            return Answer(ok=False, error=error)
        self._end_session(worker)
        return Answer(ok=True, worker=worker.id, pid=worker.process.pid)

    def _reap(self) -> None:
        for worker in list(self._workers.values()):
            status = worker.process.poll()
            if status is not None:
                self._bury(worker, status)

    def _bury(self, worker: Worker, status: ExitStatus) -> None:
        del self._workers[worker.id]
        if worker.session is not None and self._sessions.get(worker.session.key) is worker:
            del self._sessions[worker.session.key]
        for connection in worker.clients.values():
            if connection.fileno() in self._handlers:
                self._forget(connection)
        self._ended[worker.id] = Answer(
            ok=True,
            worker=worker.id,
            pid=worker.process.pid,
            ended=True,
            code=status.code,
            signal=status.signal,
            stderr=worker.process.stderr_tail(_LAST_WORDS)[-_LONGEST_TAIL:],
        )
        worker.close()
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    def _refuse(self, connection: socket.socket, reason: str) -> None:
        _send(connection, Answer(ok=False, error=reason))
        connection.close()

    def _remove_socket(self, inode: int) -> None:
        with suppress(FileNotFoundError):  # somebody tidied up before us
            if self.path.stat().st_ino == inode:
                self.path.unlink()

    def _end_workers(self) -> None:
        """End the template and the workers, all at once."""
        if self._template is not None:
            self._end_template(self._template)
        force = signal.SIGKILL if self._signals > 1 else signal.SIGTERM
        for worker in self._workers.values():
            worker.process.signal_group(force)
        for worker in self._workers.values():
            worker.process.stop(PATIENCE)
            worker.close()


class _Refused(Exception):
    """A client does not get what it asked for; the text says why."""


def _entry(worker: Worker) -> SessionEntry:
    assert worker.session is not None
    entry = SessionEntry(
        name=worker.session.key.name, pid=worker.process.pid, clients=len(worker.clients)
    )
    activity = worker.session.board.read()
    if activity is not None:
        entry.command, entry.node_id = activity.command, activity.node_id
        entry.seconds = activity.seconds
    return entry


def _send(connection: socket.socket, answer: Answer) -> None:
    with suppress(OSError):  # the client is gone; its hang-up is noticed elsewhere
        connection.sendall(answer.to_bytes())


def _drain(source: socket.socket) -> None:
    with suppress(BlockingIOError):  # the signal's byte was read with those before it
        source.recv(4096)


def _ignore(signum: int, frame: FrameType | None) -> None:
    """Only the byte in the wake-up socket matters."""
