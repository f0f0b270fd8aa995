"""Sessions: workers that clients of one user share by a name."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

from soma_core.transport import Deadline, SessionInfo
from soma_transport_socket.daemon.peers import ClientRefused
from soma_transport_socket.daemon.workers import (
    Client,
    Session,
    SessionKey,
    SupervisedWorker,
    resident_memory,
)
from soma_transport_socket.messages import Attached, WorkerSpec, packet_sockets
from soma_transport_socket.worker.activity import SharedActivity

_log = logging.getLogger("soma.daemon")
_RELIEF = 1.0  # seconds between looks for clients that do not read


class Sessions:
    """The sessions that there are.

    Args:
        start_worker: Starts a worker of a user, as specified, with descriptors of its own.
        most: How many there may be at once; None for any number.
        idle_timeout: Seconds after which one without a client ends; None for never.
    """

    def __init__(
        self,
        start_worker: Callable[[int, WorkerSpec, Mapping[Attached, int]], SupervisedWorker],
        most: int | None,
        idle_timeout: float | None,
    ) -> None:
        self._start_worker = start_worker
        self._most = most
        self._idle_timeout = idle_timeout
        self._workers: dict[SessionKey, SupervisedWorker] = {}
        self._next_relief = Deadline.after(_RELIEF)

    def find_or_start(self, key: SessionKey, spec: WorkerSpec) -> SupervisedWorker:
        """The worker of a user's session, started if there is none.

        Raises:
            ClientRefused: It has another policy, there are too many, or it cannot be started.
            OSError: This process has no descriptors left, or the system no such sockets.
        """
        worker = self._workers.get(key)
        if worker is None:
            worker = self._workers[key] = self._start(key, spec)
        session = _session(worker)
        if session.pickle != spec.pickle:
            raise ClientRefused(
                f"the session {key.name!r} was started with pickle={session.pickle!r}, and "
                f"this client has pickle={spec.pickle!r}; use the same, or another session"
            )
        return worker

    def _start(self, key: SessionKey, spec: WorkerSpec) -> SupervisedWorker:
        if self._most is not None and len(self._workers) >= self._most:
            raise ClientRefused(
                f"there are {len(self._workers)} sessions, and --max-sessions allows no more; end "
                "one with: soma sessions stop NAME"
            )
        with ExitStack() as ours, ExitStack() as theirs:
            events, their_events = packet_sockets()
            ours.enter_context(events)
            theirs.enter_context(their_events)
            for end in (events, their_events):
                end.setblocking(False)
            memory = SharedActivity.new_file()
            theirs.callback(os.close, memory)
            activity = SharedActivity(memory)
            ours.callback(activity.close)
            given: dict[Attached, int] = {"events": their_events.fileno(), "activity": memory}
            worker = self._start_worker(key.uid, spec, given)
            ours.pop_all()
        worker.session = Session(key, spec.pickle, self._idle_timeout, events, activity)
        return worker

    def join(
        self, worker: SupervisedWorker, client: Client, attached: Mapping[Attached, int]
    ) -> int:
        """Hand over a client to the worker of a session; returns the client's number.

        Raises:
            ClientRefused: The worker does not listen.
        """
        session = _session(worker)
        number = worker.add(client)
        try:
            session.join(number, attached)
        except OSError as error:
            worker.remove(number)
            name = session.key.name
            raise ClientRefused(
                f"the session {name!r} does not listen ({error}); try again, or end it with: "
                f"soma sessions stop {name}"
            ) from error
        return number

    def stop(self, key: SessionKey) -> SupervisedWorker:
        """End a session for all its clients, whatever runs; returns its worker, which ends.

        Raises:
            ClientRefused: There is none of that name.
        """
        worker = self._workers.get(key)
        if worker is None:
            names = sorted(known.name for known in self._workers if known.uid == key.uid)
            known = ", ".join(names) or "none"
            raise ClientRefused(f"there is no session {key.name!r}; there are: {known}")
        self._end(worker)
        return worker

    def _end(self, worker: SupervisedWorker) -> None:
        self.forget(worker)
        worker.interrupt()
        worker.finish()
        worker.must_end()

    def end_idle(self) -> None:
        """End those that had no client for too long."""
        for worker in list(self._workers.values()):
            if _session(worker).idle.over():
                self._end(worker)

    def relieve_stuck(self) -> None:
        """Look, every now and then, for clients that hold up their session by reading nothing."""
        if not self._next_relief.over():
            return
        self._next_relief = Deadline.after(_RELIEF)
        for worker in self._shared_by_several():
            for number, client in worker.clients.items():
                dropped = client.relieve()
                if dropped:
                    _log.warning(
                        "client %d of the %s does not read what is printed for it; %d bytes of it "
                        "were dropped, so that others are not held up",
                        number,
                        worker.name,
                        dropped,
                    )

    def _shared_by_several(self) -> list[SupervisedWorker]:
        return [worker for worker in self._workers.values() if len(worker.clients) > 1]

    def deadlines(self) -> Iterator[Deadline]:
        """When there is something to do about them that no event tells."""
        if self._shared_by_several():
            yield self._next_relief
        for worker in self._workers.values():
            yield _session(worker).idle

    def forget(self, worker: SupervisedWorker) -> None:
        """Know a worker no more, if it is one of a session: it ends, or has ended."""
        if worker.session is not None and self._workers.get(worker.session.key) is worker:
            del self._workers[worker.session.key]

    def listed(self, uid: int) -> list[SessionInfo]:
        """A user's sessions, as they are listed."""
        return [_info(worker) for key, worker in self._workers.items() if key.uid == uid]


def _session(worker: SupervisedWorker) -> Session:
    assert worker.session is not None
    return worker.session


def _info(worker: SupervisedWorker) -> SessionInfo:
    session, pid, clients = _session(worker), worker.process.pid, len(worker.clients)
    runs = session.running()
    command, node_id, seconds = (None, None, 0.0) if runs is None else runs[1:]
    memory = resident_memory(pid)
    return SessionInfo(session.key.name, pid, clients, command, node_id, seconds, memory)
