"""Call: one call of a pool, from its submission to its end, and the future that tells of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum
from typing import Any

from soma_core.channel.deadline import Deadline
from soma_core.client.worker import Worker
from soma_core.errors import DeadlineExceeded

__all__ = ["Call", "CallFuture", "Outcome"]

_REPEAT = 0.2  # seconds between interrupts
_log = logging.getLogger("soma.pool")


class Outcome(Enum):
    """How a call ended."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class CallFuture(Future[Any]):
    """The future of a call: unlike others it can be cancelled while a worker runs the call.

    To its base class it is pending until it ends, which lets it be cancelled until then.
    """

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call: Call | None = call

    def running(self) -> bool:
        """Whether a worker runs the call."""
        call = self._call
        return call is not None and call.running

    def cancel(self, *, interrupt: bool = True) -> bool:
        """Withdraw a call that waits; interrupt one that runs. Its worker stays usable.

        Args:
            interrupt: Whether a call that runs is cancelled too.

        Returns:
            Whether the call is cancelled: False if it had ended before.
        """
        call = self._call
        if call is None or not call.cancel(interrupt=interrupt):
            return self.cancelled()
        super().cancel()
        self.set_running_or_notify_cancel()  # wakes those who wait for several futures
        self._call = None
        return True

    def end(self, result: Any, error: BaseException | None) -> None:
        """Set the result or the error. What callbacks raise is logged, and stops nobody."""
        self._call = None  # with it goes the input of the call
        try:
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(result)
        except BaseException:
            _log.exception("a callback of a call's future failed")


class Call:
    """One call of a pool: it waits, a worker may begin it, and it ends once. Thread-safe.

    Args:
        run: Does it on a worker, and returns the result.
        label: What it is counted under in the statistics; None for what is only counted.
        priority: Calls of a greater one are run sooner.
        deadline: When it must have ended; until a worker has begun it, the pool sees to that.
        commit: Called with the result if the call changed the worker: makes the change one of
            the blueprint, and returns the version of that.
        replace_on_error: Whether a call that fails may leave the worker half changed, so that it
            must be replaced.

    Attributes:
        submitted: When it was made (``time.monotonic``).
        future: Receives how it ends.
        on_end: Called once, just before the future says how it ended.
    """

    def __init__(
        self,
        run: Callable[[Worker], Any],
        *,
        label: str | None = None,
        priority: int = 0,
        deadline: Deadline | None = None,
        commit: Callable[[Any], int] | None = None,
        replace_on_error: bool = False,
    ) -> None:
        self.run, self.commit = run, commit
        self.label, self.priority = label, priority
        self.deadline = deadline or Deadline()
        self.replace_on_error = replace_on_error
        self.submitted = time.monotonic()
        self.future = CallFuture(self)
        self.on_end: Callable[[Call, Outcome], None] | None = None
        self._lock = threading.Lock()
        self._ended = False
        self._worker: Worker | None = None
        self._grace = 0.0
        self._left: threading.Event | None = None
        self._abandoned = False

    @property
    def running(self) -> bool:
        """Whether a worker has it."""
        return self._worker is not None and not self._ended

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._ended

    def begin(self, worker: Worker, grace: float) -> bool:
        """A worker has it from now on; False if it has ended before.

        Args:
            worker: The worker, which is ended if it does not stop when the call is cancelled.
            grace: How many seconds it may take for that.
        """
        with self._lock:
            if not self._ended:
                self._worker, self._grace = worker, grace
            return not self._ended

    def leave(self) -> bool:
        """The worker has it no longer; returns whether that worker can be used on."""
        with self._lock:
            self._worker = None
            if self._left is not None:
                self._left.set()
            return not self._abandoned

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """End it with what came of it; nothing happens if it was cancelled before."""
        if self._end(Outcome.DONE if error is None else Outcome.FAILED):
            if isinstance(error, DeadlineExceeded) and self.deadline.over():
                waited = time.monotonic() - self.submitted
                error.add_note(f"Its deadline counts from its submission, {waited:.3g} s before.")
            self.future.end(result, error)

    def refuse(self, error: Exception) -> None:
        """End it with an error, unless a worker has it or it has ended."""
        if self._end(Outcome.FAILED, if_waiting=True):
            self.future.end(None, error)

    def cancel(self, *, interrupt: bool) -> bool:
        """End it; the future says so. A worker that runs it is made to stop, if it may be."""
        if not self._end(Outcome.CANCELLED, if_waiting=not interrupt):
            return False
        with self._lock:
            worker = self._worker
            self._left = None if worker is None else threading.Event()
        if worker is not None:
            name = "soma-pool-cancel"
            threading.Thread(target=self._stop, args=[worker], name=name, daemon=True).start()
        return True

    def _end(self, outcome: Outcome, *, if_waiting: bool = False) -> bool:
        with self._lock:
            if self._ended or (if_waiting and self._worker is not None):
                return False
            self._ended = True
        if self.on_end is not None:
            self.on_end(self, outcome)
        return True

    def _stop(self, worker: Worker) -> None:
        """Interrupt the worker until it has left this call, or end it."""
        assert self._left is not None
        end = Deadline.after(self._grace)
        while not end.over():
            with self._lock:  # the worker cannot go over to another call meanwhile
                if self._worker is None:
                    return
                worker.interrupt()
            self._left.wait(_REPEAT)
        with self._lock:
            self._abandoned = self._worker is not None
        if self._abandoned:
            worker.close()
