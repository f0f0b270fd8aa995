"""Execution: what a worker of a pool runs, for one call or for several that were joined."""

from __future__ import annotations

import threading

from soma_core.channel.deadline import Deadline
from soma_core.client.worker import Worker
from soma_core.errors import DeadlineExceeded, TransportError

__all__ = ["Execution", "ends_worker"]

_REPEAT = 0.2  # seconds between interrupts


class Execution:
    """A worker is at work until it leaves; when nobody wants it any more, it is interrupted."""

    def __init__(self, worker: Worker, grace: float) -> None:
        self._worker, self._grace = worker, grace
        self._lock = threading.RLock()  # likewise for calls that run together
        self._wanted = 0
        self._over = False
        self._left: threading.Event | None = None
        self._abandoned = False

    def add(self) -> None:
        """One more call wants it."""
        with self._lock:
            self._wanted += 1

    def drop(self) -> None:
        """A call wants it no longer."""
        with self._lock:
            self._wanted -= 1
            if self._wanted or self._over or self._left is not None:
                return
            self._left = threading.Event()
        threading.Thread(target=self._stop, name="soma-pool-cancel", daemon=True).start()

    def leave(self) -> bool:
        """The worker has done with it; returns whether the worker can be used on."""
        with self._lock:
            self._over = True
            if self._left is not None:
                self._left.set()
            return not self._abandoned

    def _stop(self) -> None:
        """Interrupt the worker until it leaves, or end it."""
        assert self._left is not None
        end = Deadline.after(self._grace)
        while not end.over():
            with self._lock:  # the worker cannot go over to another call meanwhile
                if self._over:
                    return
                self._worker.interrupt()
            self._left.wait(_REPEAT)
        with self._lock:
            self._abandoned = not self._over
        if self._abandoned:
            self._worker.close()


def ends_worker(error: BaseException) -> bool:
    """Whether the worker of a call that raised this cannot be used on."""
    if isinstance(error, DeadlineExceeded):
        return not error.worker_survived
    return isinstance(error, TransportError)
