"""Restarts: when the worker of a slot is started again, and when its pool is given up."""

from __future__ import annotations

import logging
from collections.abc import Callable

from soma_core.client.backoff import Backoff
from soma_core.client.pool.queue import CallQueue
from soma_core.errors import StartFailed, TransportError

_FAILED_STARTS = 5  # in a row, after which a pool in which no worker is left is given up
_LONGEST_WAIT = 30.0  # seconds between two starts
_log = logging.getLogger("soma.pool")


class Restarts:
    """What comes of the failures of one slot. It logs them, and never waits.

    Args:
        queue: The calls of the pool, which end with it.
        has_workers: Whether any slot of the pool has a worker, as far as is known.
    """

    def __init__(self, queue: CallQueue, has_workers: Callable[[], bool]) -> None:
        self._queue, self._has_workers = queue, has_workers
        self._backoff = Backoff(cap=_LONGEST_WAIT, budget=_FAILED_STARTS)

    def worked(self) -> None:
        """The worker has done a call."""
        self._backoff.reset()

    def not_started(self, error: Exception) -> float:
        """The worker did not start; returns the seconds to wait before the next try."""
        delay = self._backoff.next_delay()
        failures = self._backoff.spent
        _log.warning("a worker of the pool did not start (%d in a row): %s", failures, error)
        if self._backoff.exhausted and not self._has_workers():
            reason = (
                "the pool is broken: no worker is left, and the last "
                f"{failures} attempts to start one failed; the last: {error}"
            )
            self._queue.end(lambda: StartFailed(reason))
        return delay

    def died(self, *, used: bool, age: float) -> float:
        """The worker died while nothing ran; returns the seconds to wait before the next start.

        Args:
            used: Whether it had done a call.
            age: Seconds since it was there. If it soon died and never did a call, it had not
                started well.
        """
        if not used and age < _LONGEST_WAIT:
            return self.not_started(StartFailed("the worker ended before its first call"))
        _log.warning("an idle worker of the pool died, and is replaced")
        return 0.0

    def not_updated(self, error: Exception) -> None:
        """The worker could not be told what all others hold by now."""
        _log.warning("a worker of the pool cannot catch up, and is replaced: %s", error)

    def failed(self, error: BaseException) -> None:
        """The slot itself failed, which is a fault of the pool."""
        reason = f"the pool is broken: {error!r}"
        _log.exception("a slot of the pool failed")
        self._queue.end(lambda: TransportError(reason))
