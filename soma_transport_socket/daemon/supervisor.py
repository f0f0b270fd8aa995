"""The supervisor: gives each client a worker process, and sees all of them to their ends.

One thread, one loop. A worker is handed its client's connection, or those of all clients of a
session, and talks to them directly; the supervisor keeps a connection only to notice that the
client is gone.
"""

from __future__ import annotations

import os
import signal
import socket
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from soma_core.errors import SomaError, StartFailed
from soma_core.transport import DaemonInfo, Deadline, ExitStatus
from soma_transport_socket import address
from soma_transport_socket.daemon import systemd
from soma_transport_socket.daemon.controls import Controls, copy_of
from soma_transport_socket.daemon.launching import Launcher
from soma_transport_socket.daemon.left_open import LeftOpen
from soma_transport_socket.daemon.log import log
from soma_transport_socket.daemon.loop import Loop
from soma_transport_socket.daemon.peers import ClientRefused, Peers
from soma_transport_socket.daemon.reception import Reception, refuse, reply
from soma_transport_socket.daemon.sessions import Sessions
from soma_transport_socket.daemon.workers import (
    PATIENCE,
    Client,
    SessionKey,
    SupervisedWorker,
    resident_memory,
)
from soma_transport_socket.messages import (
    Answer,
    Attached,
    Brought,
    PicklePolicy,
    Request,
    WorkerSpec,
)

_REMINDER = 0.2  # seconds until workers are told again that the daemon ends
_REMEMBERED = 256  # ended workers whose exit status can still be asked for


@dataclass(frozen=True)
class DaemonLimits:
    """What a daemon allows.

    Attributes:
        sessions: How many sessions there may be at once; None for any number.
        workers_per_user: How many workers, those of sessions among them; None for any number.
        clients_per_user: How many clients of workers; None for any number.
        memory: Bytes that each worker may take for itself; None for any number.
        idle: Seconds after which a session without a client ends; None for never.
        grace: Seconds that running commands are given when the daemon ends.
    """

    sessions: int | None = None
    workers_per_user: int | None = None
    clients_per_user: int | None = None
    memory: int | None = None
    idle: float | None = None
    grace: float = 10.0


class Supervisor:
    """Serves a socket until SIGTERM or SIGINT (SIGHUP, SIGQUIT); a second one does not wait.

    Args:
        path: Where to listen.
        pickle: ``"never"`` makes every worker refuse pickles, whatever the client asks for.
        let_in: Other users that are served, by uid; always without pickles.
        preload: Modules that a zygote imports, from which workers are forked.
        limits: What it allows.
    """

    def __init__(
        self,
        path: Path,
        *,
        pickle: PicklePolicy = "same-user",
        let_in: Iterable[int] = (),
        preload: Sequence[str] = (),
        limits: DaemonLimits | None = None,
    ) -> None:
        self.path = path
        self._limits = limits or DaemonLimits()
        self._pickle = pickle
        self._peers = Peers(let_in)
        self._loop = Loop()
        self._launcher = Launcher(self._loop, preload)
        self._reception = Reception(self._loop, self._peers, self.connect, self.answer)
        self._sessions = Sessions(self._start_worker, self._limits.sessions, self._limits.idle)
        self._workers: dict[str, SupervisedWorker] = {}
        self._ended: OrderedDict[str, Answer] = OrderedDict()
        self._controls = Controls(self._loop, self._answer_about_worker)
        self._left_open = LeftOpen()
        self._failure: StartFailed | None = None
        self._began = time.monotonic()
        self._stops = 0
        self._end_by: Deadline | None = None

    def run(self, announce: Callable[[], None] = lambda: None) -> None:
        """Serve until stopped; then let commands end, end the workers, remove the socket.

        Args:
            announce: Called when clients are served; those that came before have waited.

        Raises:
            StartFailed: It cannot listen there, or a module cannot be preloaded.
        """
        self._wake_on_signals()
        listening, inode = self._listen()
        listening.setblocking(False)

        def serve_clients() -> None:
            self._reception.open(listening)
            announce()
            systemd.notify("READY=1")

        try:
            self._launcher.start(serve_clients, self._fail)
            while not self._done():
                self._step()
        finally:
            self._remove_socket(inode)
            listening.close()
            self._end_workers()
        if self._failure is not None:
            raise self._failure

    def _listen(self) -> tuple[socket.socket, int | None]:
        """The socket, and what its file is if it is ours to remove."""
        try:
            handed = systemd.handed_listener()
        except ValueError as error:
            raise StartFailed(str(error)) from None
        if handed is not None:
            self.path = Path(handed.getsockname())
            return handed, None
        return address.bind(self.path, for_others=bool(self._peers.others))

    def _wake_on_signals(self) -> None:
        woken, wakes = socket.socketpair()
        for end in (woken, wakes):
            end.setblocking(False)
        signal.set_wakeup_fd(wakes.detach(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _ignore)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for number in (signal.SIGHUP, signal.SIGQUIT):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and shells do
                signal.signal(number, self._stop)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # who started it may have blocked some
        self._loop.on_readable(woken, lambda: _drain(woken))

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self._stops += 1

    def _fail(self, error: StartFailed) -> None:
        self._failure = StartFailed(f"--preload: {error}")
        self._stops = 1

    def _done(self) -> bool:
        """Whether to stop serving; the first signal lets the workers finish."""
        if not self._stops:
            return False
        if self._end_by is None:
            self._end_by = Deadline.after(self._limits.grace)
            systemd.notify("STOPPING=1")
            log("stopping", workers=len(self._workers), grace=self._limits.grace)
        for worker in self._workers.values():
            worker.finish()
        return not self._workers or self._stops > 1 or self._end_by.over()

    def _step(self) -> None:
        self._loop.wait(self._next_deadline())
        self._reception.look_again()
        for worker in list(self._workers.values()):
            status = worker.process.poll()
            if status is not None:
                self._reap(worker, status)
        self._launcher.look_after({worker.process.pid for worker in self._workers.values()})
        for worker in self._workers.values():
            worker.push_if_due()
        self._sessions.end_idle()
        self._sessions.relieve_stuck()

    def _next_deadline(self) -> Deadline:
        """When something is due that no event will tell."""
        due = [self._reception.next_look(), self._end_by or Deadline()]
        due += [Deadline.after(_REMINDER)] if self._stops else []
        due += [worker.end_by for worker in self._workers.values()]
        due += self._sessions.deadlines()
        return Deadline(min((one.at for one in due if one.at is not None), default=None))

    def connect(
        self, connection: socket.socket, request: Request, attached: Mapping[Brought, int]
    ) -> None:
        """Give a client the worker that it asked for; the connection is its own from now on.

        Args:
            connection: The client's.
            request: What it wants; ``serve`` if it speaks the protocol straight away.
            attached: The descriptors that came with it; they stay the caller's.
        """
        with ExitStack() as undo:
            try:
                control = None
                if "control" in attached:
                    control = undo.enter_context(copy_of(attached["control"]))
                client = Client(connection, attached, self._left_open)
            except OSError as error:
                refuse(connection, f"cannot watch this connection: {error.strerror}")
                return
            undo.callback(client.close, "worker")
            try:
                worker, number = self._assign(client, connection, request, attached)
            except (ClientRefused, OSError, SomaError) as error:
                log("client refused", session=request.session, reason=str(error))
                refuse(connection, str(error))
                return
            undo.pop_all()
        if control is not None:
            self._controls.add(control, worker.id, number)
        log("client", worker=worker.process.pid, session=request.session, uid=worker.uid)
        self._loop.on_hangup(client.watched, lambda: self._hung_up(worker, number))
        if request.op == "connect":
            answer = Answer(
                ok=True,
                worker=worker.id,
                pid=worker.process.pid,
                client=number,
                warning=worker.warning,
            )
            reply(connection, answer)
        client.let_go()

    def _assign(
        self,
        client: Client,
        connection: socket.socket,
        request: Request,
        brought: Mapping[Brought, int],
    ) -> tuple[SupervisedWorker, int]:
        if self._stops:
            raise ClientRefused("this daemon is ending, and takes no clients any more")
        attached: dict[Attached, int] = {"connection": connection.fileno()}
        attached.update((name, fd) for name, fd in brought.items() if name in ("memory", "output"))
        spec = WorkerSpec(
            pickle=self._peers.policy(connection, [self._pickle, request.pickle]),
            threads=request.threads,
            memory_limit=self._limits.memory,
        )
        uid = address.peer_uid(connection)
        clients = sum(len(worker.clients) for worker in self._workers_of(uid))
        _check_limit("clients", uid, clients, self._limits.clients_per_user)
        if request.session is None:
            worker = self._start_worker(uid, spec, attached)
            return worker, worker.add(client)
        key = SessionKey(uid, request.session)
        worker = self._sessions.find_or_start(key, spec)
        return worker, self._sessions.join(worker, client, attached)

    def _workers_of(self, uid: int) -> list[SupervisedWorker]:
        return [worker for worker in self._workers.values() if worker.uid == uid]

    def _start_worker(
        self, uid: int, spec: WorkerSpec, attached: Mapping[Attached, int]
    ) -> SupervisedWorker:
        workers = len(self._workers_of(uid))
        _check_limit("workers", uid, workers, self._limits.workers_per_user)
        try:
            launched = self._launcher.launch(spec, attached)
        except (OSError, StartFailed) as error:
            raise ClientRefused(f"cannot start a worker: {error}") from error
        worker = SupervisedWorker(
            uuid.uuid4().hex, launched.process, uid=uid, warning=launched.warning
        )
        self._workers[worker.id] = worker
        log("worker started", worker=worker.process.pid, pickle=spec.pickle)
        self._loop.on_hangup(worker.process.lifeline, lambda: self._ends(worker))
        return worker

    def _ends(self, worker: SupervisedWorker) -> None:
        """A worker ends, or has closed all that it shares with us: then it is made to end."""
        self._loop.remove(worker.process.lifeline)
        self._sessions.forget(worker)
        worker.must_end()

    def _hung_up(self, worker: SupervisedWorker, client: int) -> None:
        self._let_go(worker, client)
        worker.hung_up(client)

    def _let_go(self, worker: SupervisedWorker, client: int) -> None:
        """Watch a client no more; what it may still ask counts as left open."""
        self._loop.remove(worker.clients[client].watched)
        named = worker.id, client
        if self._controls.has(*named):
            self._left_open.add(
                worker.uid,
                partial(self._controls.has, *named),
                partial(self._controls.drop, *named),
            )

    def answer(self, request: Request, uid: int) -> Answer:
        """Do what a client asks about its worker, or about its user's sessions."""
        if request.op == "sessions":
            return Answer(ok=True, sessions=self._sessions.listed(uid))
        if request.op == "daemon":
            return Answer(ok=True, daemon=self._info(uid))
        if request.op != "stop":
            return self._answer_about_worker(request)
        try:
            worker = self._sessions.stop(SessionKey(uid, request.session or ""))
        except ClientRefused as refusal:
            return Answer(ok=False, error=str(refusal))
        return Answer(ok=True, worker=worker.id, pid=worker.process.pid)

    def _info(self, uid: int) -> DaemonInfo:
        """This daemon, and the workers of a user."""
        workers = [worker.info() for worker in self._workers_of(uid)]
        pid, up = os.getpid(), time.monotonic() - self._began
        return DaemonInfo(pid, version("soma-core"), up, resident_memory(pid), workers)

    def _answer_about_worker(self, request: Request) -> Answer:
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

    def _reap(self, worker: SupervisedWorker, status: ExitStatus) -> None:
        del self._workers[worker.id]
        self._sessions.forget(worker)
        self._loop.remove(worker.process.lifeline)
        for client in worker.clients:
            self._let_go(worker, client)
        self._ended[worker.id] = worker.last_answer(status)
        log("worker ended", worker=worker.process.pid, how=str(status))
        worker.close()
        while len(self._ended) > _REMEMBERED:
            self._controls.forget(self._ended.popitem(last=False)[0])

    def _remove_socket(self, inode: int | None) -> None:
        with suppress(OSError):  # somebody tidied up before us, or nobody may any more
            if self.path.stat().st_ino == inode:
                self.path.unlink()

    def _end_workers(self) -> None:
        """End the zygote and the workers, all at once."""
        self._launcher.stop()
        processes = [worker.process for worker in self._workers.values()]
        gently = [] if self._stops > 1 else [signal.SIGTERM]
        for number in (*gently, signal.SIGKILL):
            for process in processes:
                process.signal_group(number)
            deadline = Deadline.after(PATIENCE)
            for process in processes:
                process.wait(deadline.left() or 0.0)
        for worker in self._workers.values():
            worker.process.stop(0.0)
            worker.close()


def _check_limit(what: str, uid: int, count: int, most: int | None) -> None:
    if most is not None and count >= most:
        raise ClientRefused(
            f"user {uid} has {count} {what} here, and --max-{what}-per-user allows no more; "
            "close some, or share a session"
        )


def _drain(source: socket.socket) -> None:
    with suppress(BlockingIOError):  # the signal's byte was read with those before it
        source.recv(4096)


def _ignore(signum: int, frame: FrameType | None) -> None:
    """Only the byte in the wake-up socket matters."""
