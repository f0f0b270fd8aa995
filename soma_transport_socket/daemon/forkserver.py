"""The daemon's end of the zygote, the process from which warm workers are forked.

One worker is always forked ahead: it waits for its :class:`WorkerSpec`, so that a client gets it
at once.
"""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from soma_core.errors import StartFailed
from soma_core.transport import OutputPump, ProcessTree, WorkerProcess, starting
from soma_transport_socket.messages import (
    Attached,
    ForkRequest,
    WorkerSpec,
    ZygoteEvent,
    packet_sockets,
    receive,
    send,
)

_PATIENCE = 5.0  # seconds for the zygote to fork


class _Pending:
    """Our ends of what a worker holds that is being forked.

    Raises:
        StartFailed: This process has no descriptors left.
    """

    def __init__(self) -> None:
        with starting("make sockets to a worker"), ExitStack() as undo:
            self._output = OutputPump()
            undo.callback(self._output.close)
            self._tree = ProcessTree()
            undo.callback(self._tree.release)
            self._lifeline, self._their_lifeline = socket.socketpair()
            undo.callback(self._lifeline.close)
            undo.callback(self._their_lifeline.close)
            self._spec, self._their_spec = packet_sockets()
            undo.pop_all()

    @property
    def request(self) -> ForkRequest:
        """What to ask the zygote."""
        return ForkRequest(tree=self._tree.mark)

    def attached(self) -> dict[Attached, int]:
        """The ends of the worker."""
        return {
            "lifeline": self._their_lifeline.fileno(),
            "output": self._output.writing,
            "spec": self._their_spec.fileno(),
        }

    def forked(self, pid: int) -> _WarmWorker:
        """The worker, which runs by now and is a child of ours."""
        process = WorkerProcess.adopted(pid, self._lifeline, self._output, self._tree)
        return _WarmWorker(process, self._spec)

    def hand_over(self) -> None:
        """Let go of the ends of the worker, which have been sent."""
        self._their_lifeline.close()
        self._their_spec.close()

    def close(self) -> None:
        """Let go of everything: there is no such worker."""
        self.hand_over()
        self._lifeline.close()
        self._spec.close()
        self._output.close()
        self._tree.release()


class _WarmWorkerDied(StartFailed):
    """A warm worker ended before it had its spec."""


class _WarmWorker(NamedTuple):
    """A worker that waits for its spec."""

    process: WorkerProcess
    spec: socket.socket

    def assign(self, spec: WorkerSpec, attached: Mapping[Attached, int]) -> WorkerProcess:
        """Send it its spec, and wait until it has it.

        Sending alone would not show that: a process that was killed still holds its sockets until
        the last of its threads has gone.

        Raises:
            _WarmWorkerDied: It has ended, or does not take the spec.
        """
        received = None
        with self.spec as spec_socket:
            try:
                send(spec_socket, spec, attached)
                spec_socket.settimeout(_PATIENCE)
                received, _ = receive(WorkerSpec, spec_socket)
            except OSError:
                received = None
        if received is None:
            raise _WarmWorkerDied(f"the worker that was forked last {self.process.stop(0.0)}")
        return self.process

    def stop(self) -> None:
        """End it."""
        self.spec.close()
        self.process.stop(0.0)


class Forkserver:
    """A zygote, and the workers that it forks.

    Args:
        modules: What the zygote imports.

    Attributes:
        events: The socket to the zygote; readable when it has imported, has failed, or has ended.
        ready: Whether it can be asked to fork.

    Raises:
        StartFailed: It cannot be started.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self.events, theirs = packet_sockets()
        command = [sys.executable, "-P", "-m", "soma_transport_socket.worker.zygote", *modules]
        with theirs:
            self._zygote = WorkerProcess(command, side=theirs, leaves_children=True)
        self.ready = False
        self._pending: _Pending | None = None
        self._warm: _WarmWorker | None = None
        self._refusal = ""

    @property
    def pids(self) -> set[int]:
        """The zygote, and the worker that nobody has taken yet."""
        warm = set() if self._warm is None else {self._warm.process.pid}
        return {self._zygote.pid} | warm

    def attend(self) -> None:
        """Take what the zygote says: that it has imported, or about the worker it was to fork.

        Raises:
            StartFailed: Its imports failed, or it ended.
        """
        event = self._receive()
        if event is None:  # it was received already
            return
        if event.kind == "failed":
            raise StartFailed(event.reason)
        if event.kind == "imported":
            self.ready = True
            self._request_worker()
        elif self._pending is not None:
            pending, self._pending = self._pending, None
            self._refusal = event.reason
            if event.kind == "forked":
                self._warm = pending.forked(event.pid)
            else:
                pending.close()

    def take(self, spec: WorkerSpec, attached: Mapping[Attached, int]) -> WorkerProcess:
        """Take a worker that was forked, and have the next one forked.

        Raises:
            StartFailed: The zygote cannot fork now, or has ended; the message says why.
        """
        self.drop_dead_worker()
        try:
            return self._take(spec, attached)
        except _WarmWorkerDied:
            return self._take(spec, attached)  # the next one, which is being forked

    def _take(self, spec: WorkerSpec, attached: Mapping[Attached, int]) -> WorkerProcess:
        if self._pending is None and self._warm is None:
            self._request_worker()
        if self._pending is not None:
            self._wait_for_event()
            self.attend()
        warm, self._warm = self._warm, None
        if warm is None:
            raise StartFailed(self._refusal)
        self._request_worker()
        return warm.assign(spec, attached)

    def drop_dead_worker(self) -> None:
        """Look whether the worker that waits was killed meanwhile."""
        if self._warm is not None and self._warm.process.poll() is not None:
            self._warm.stop()
            self._warm = None

    def _request_worker(self) -> None:
        """Have a worker forked; where that cannot be, whoever takes one learns why."""
        try:
            pending = _Pending()
        except StartFailed as error:
            self._refusal = str(error)
            return
        try:
            send(self.events, pending.request, pending.attached())
        except OSError as error:
            self.ready = False
            self._refusal = f"the zygote does not listen: {error}"
            pending.close()
        else:
            self._pending = pending
            pending.hand_over()

    def _wait_for_event(self) -> None:
        poller = select.poll()
        poller.register(self.events, select.POLLIN)
        if not poller.poll(_PATIENCE * 1000):
            self.ready = False
            raise StartFailed(f"the zygote did not answer within {_PATIENCE:g} s")

    def _receive(self) -> ZygoteEvent | None:
        self.events.setblocking(False)
        try:
            event, _ = receive(ZygoteEvent, self.events)
        except BlockingIOError:
            return None
        except OSError:
            event = None
        finally:
            self.events.setblocking(True)
        if event is None:
            self.ready = False
            status = self._zygote.wait(_PATIENCE)
            tail = self._zygote.output_tail()
            quoted = f"; the last it printed:\n{tail}" if tail else ""
            raise StartFailed(f"the zygote {status or 'closed its socket'}{quoted}")
        return event

    def stop(self) -> None:
        """End the zygote; the workers that were taken from it live on."""
        if self._warm is not None:
            self._warm.stop()
        if self._pending is not None:
            self._pending.close()
        self.events.close()
        self._zygote.stop(0.0)
