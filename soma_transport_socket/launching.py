"""Launching: how the supervisor gets a worker process, forked from a template or started afresh."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import select
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

from soma_core.errors import StartFailed
from soma_core.transport import WorkerProcess, thread_limits
from soma_transport_socket.orders import Order

__all__ = ["TemplateProcess", "adopt_orphans", "forget_orphans", "start_afresh"]

_log = logging.getLogger("soma.supervisor")
_PATIENCE = 5.0  # seconds for a template to fork
_LONGEST_ANSWER = 1 << 16
_PR_SET_CHILD_SUBREAPER = 36


def start_afresh(order: Order, descriptors: Sequence[int]) -> WorkerProcess:
    """Start a worker as a new process.

    Args:
        order: How it is to run.
        descriptors: What it gets with the order; they stay the caller's.

    Raises:
        StartFailed: It cannot be started.
    """
    command = [sys.executable, "-P", "-m", "soma_transport_socket.worker", order.to_json()]
    return WorkerProcess(
        [*command, *map(str, descriptors)],
        pass_fds=descriptors,
        env=thread_limits(order.threads),
    )


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ended, as workers of a template are.

    Raises:
        StartFailed: The kernel cannot do that.
    """
    if not sys.platform.startswith("linux"):
        raise StartFailed("--preload needs Linux: only there can forked workers be adopted")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise StartFailed(f"--preload: the kernel refuses: {os.strerror(ctypes.get_errno())}")


def forget_orphans(known: set[int]) -> None:
    """Reap the adopted children that ended and are nobody we know: what workers left behind."""
    with suppress(ChildProcessError):  # there are no children at all
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if ended is None or ended.si_pid in known:
                return
            os.waitpid(ended.si_pid, 0)


class _Unborn:
    """The supervisor's ends of what a worker holds that is being forked."""

    def __init__(self, theirs: ExitStack) -> None:
        """Make them.

        Args:
            theirs: Closes the worker's ends, once they were handed over.
        """
        self._lifeline, lifeline = socket.socketpair()
        self._orders, orders = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reading, writing = os.pipe()
        self._stderr = os.fdopen(reading, "rb")
        theirs.enter_context(lifeline)
        theirs.enter_context(orders)
        theirs.callback(os.close, writing)
        self.handed = [lifeline.fileno(), writing, orders.fileno()]

    def born(self, pid: int) -> _Spare:
        """The worker, which runs by now and is a child of ours."""
        process = WorkerProcess.adopted(pid, self._lifeline, self._stderr)
        return _Spare(process, self._orders)


class _SpareDied(StartFailed):
    """A worker ended before it took its order."""


class _Spare(NamedTuple):
    """A worker that waits for its order."""

    process: WorkerProcess
    orders: socket.socket

    def employ(self, order: Order, descriptors: Sequence[int]) -> WorkerProcess:
        """Give it its order, and wait until it has taken it.

        Sending alone would not tell: a process that was killed still holds its sockets until the
        last of its threads has gone.

        Raises:
            _SpareDied: It has ended, or does not take the order.
        """
        with self.orders:
            try:
                socket.send_fds(self.orders, [order.to_json().encode()], descriptors)
                self.orders.settimeout(_PATIENCE)
                taken = self.orders.recv(_LONGEST_ANSWER)
            except OSError:
                taken = b""
        if not taken:
            raise _SpareDied(f"the worker that was forked last {self.process.stop(0.0)}")
        return self.process

    def dismiss(self) -> None:
        """End it."""
        self.orders.close()
        self.process.stop(0.0)


class TemplateProcess:
    """The supervisor's end of a template.

    Args:
        modules: What it imports.

    Attributes:
        control: The socket to it; readable when it has imported, has failed, or has ended.
        ready: Whether it can be asked to fork.

    Raises:
        StartFailed: It cannot be started.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-m", "soma_transport_socket.template", *modules]
        with theirs:
            self._process = WorkerProcess(command, side=theirs)
        self.ready = False
        self._coming: _Unborn | None = None
        self._spare: _Spare | None = None
        self._refusal = ""

    @property
    def pids(self) -> set[int]:
        """Its process, and that of the worker that nobody has taken yet."""
        spare = set() if self._spare is None else {self._spare.process.pid}
        return {self._process.pid} | spare

    def hear(self) -> None:
        """Take what it says: that it has imported, or about the worker that it was to fork.

        Raises:
            StartFailed: Its imports failed, or it ended.
        """
        said = self._receive()
        if said is None:  # it was heard already
            return
        if "failed" in said:
            raise StartFailed(said["failed"])
        if "ready" in said:
            self.ready = True
            self._order_a_spare()
        elif self._coming is not None:
            coming, self._coming = self._coming, None
            self._spare = coming.born(said["pid"]) if "pid" in said else None
            self._refusal = said.get("refused", "")

    def take(self, order: Order, descriptors: Sequence[int]) -> WorkerProcess:
        """Take a worker that it forked, and have it fork the next one.

        Args:
            order: How the worker is to run.
            descriptors: What it gets with the order; they stay the caller's.

        Raises:
            StartFailed: It cannot fork now, or has ended; the message says why.
        """
        self.drop_dead_spare()
        try:
            return self._take_spare(order, descriptors)
        except _SpareDied:
            return self._take_spare(order, descriptors)  # the next one, which is being forked

    def _take_spare(self, order: Order, descriptors: Sequence[int]) -> WorkerProcess:
        if self._coming is None and self._spare is None:
            self._order_a_spare()
        if self._coming is not None:
            self._wait_for_answer()
            self.hear()
        spare, self._spare = self._spare, None
        if spare is None:
            raise StartFailed(self._refusal)
        self._order_a_spare()
        return spare.employ(order, descriptors)

    def drop_dead_spare(self) -> None:
        """Look whether the worker that waits has been killed meanwhile."""
        if self._spare is not None and self._spare.process.poll() is not None:
            self._spare.dismiss()
            self._spare = None

    def _order_a_spare(self) -> None:
        with ExitStack() as theirs:
            self._coming = _Unborn(theirs)
            try:
                socket.send_fds(self.control, [b"fork"], self._coming.handed)
            except OSError as error:
                self.ready = False
                raise StartFailed(f"the template does not listen: {error}") from error

    def _wait_for_answer(self) -> None:
        poller = select.poll()
        poller.register(self.control, select.POLLIN)
        if not poller.poll(_PATIENCE * 1000):
            self.ready = False
            raise StartFailed(f"the template did not answer within {_PATIENCE:g} s")

    def _receive(self) -> dict[str, Any] | None:
        try:
            answer = self.control.recv(_LONGEST_ANSWER, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            answer = b""
        if not answer:
            self.ready = False
            status = self._process.wait(_PATIENCE)
            raise StartFailed(f"the template {status or 'closed its socket'}{self._last_words()}")
        said: dict[str, Any] = json.loads(answer)
        return said

    def _last_words(self) -> str:
        said = self._process.stderr_tail()
        return f"; the end of its stderr:\n{said}" if said else ""

    def end(self) -> None:
        """End it; the workers that were taken from it live on."""
        if self._spare is not None:
            self._spare.dismiss()
        self.control.close()
        self._process.stop(0.0)
