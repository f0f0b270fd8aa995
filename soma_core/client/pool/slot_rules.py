"""SlotRules: when the worker of a slot is behind, is given up, or is started again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from soma_core.channel.contract import Transport
from soma_core.client.aio.worker import AsyncWorker
from soma_core.client.backoff import Backoff
from soma_core.client.pool.blueprint import Blueprint
from soma_core.client.pool.queue import CallQueue
from soma_core.client.pool.replica import Replica
from soma_core.errors import ChannelClosed, StartFailed, TransportError

__all__ = ["SlotRules"]

_FAILED_STARTS = 5  # in a row, after which a pool in which no worker is left is given up
_LONGEST_WAIT = 30.0  # seconds between two starts
_log = logging.getLogger("soma.pool")


class SlotRules:
    """What a slot knows and decides; it never waits.

    Args:
        queue: Where the calls come from.
        blueprint: How its workers are made, and what they must hold.
        quotas: How many calls each of its workers does, in turn; None for any number.
        has_workers: Whether any slot of the pool has a worker, as far as is known.
        number: Its number in the pool, which its recordings are named by.
    """

    def __init__(
        self,
        queue: CallQueue,
        blueprint: Blueprint,
        quotas: Iterator[int | None],
        has_workers: Callable[[], bool],
        number: int,
    ) -> None:
        self._blueprint, self._number = blueprint, number
        self._queue = queue
        self._quotas, self._has_workers = quotas, has_workers
        self._replica: Replica | None = None
        self._starting: Transport | None = None
        self._closed = self._leaving = False
        self._backoff = Backoff(cap=_LONGEST_WAIT, budget=_FAILED_STARTS)

    @property
    def worker(self) -> AsyncWorker | None:
        """The worker; None while it is being replaced."""
        replica = self._replica
        return None if replica is None else replica.worker

    @property
    def busy(self) -> bool:
        """Whether a call runs."""
        replica = self._replica
        return replica is not None and replica.busy

    def retire(self) -> None:
        """End the worker once the call that runs is done, and take no other."""
        self._leaving = True
        self._queue.wake()

    def _is_behind(self, replica: Replica) -> bool:
        return replica.version != self._blueprint.version

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelClosed("the pool was closed")

    def _why_not_started(self, error: BaseException) -> BaseException:
        """What to tell of a start that failed: a worker that close() ended says something else."""
        return ChannelClosed("the pool was closed") if self._closed else error

    def _hold(self, worker: AsyncWorker, transport: Transport, version: int) -> Replica:
        """The worker is there, and holds what all hold."""
        self._replica = Replica(worker, transport, version, next(self._quotas))
        return self._replica

    def _failed_start(self, error: Exception) -> float:
        """The worker did not start; returns the seconds to wait before the next try."""
        if self._closed:
            return 0.0
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

    def _died_idle(self, replica: Replica) -> float:
        """The worker died while nothing ran; returns the seconds to wait before the next start.

        If it never did anything, it had not started well.
        """
        if not replica.used:
            return self._failed_start(StartFailed("the worker ended before its first call"))
        if not self._closed:
            _log.warning("an idle worker of the pool died, and is replaced")
        return 0.0

    def _failed_update(self, error: Exception) -> None:
        if not self._closed:
            _log.warning("a worker of the pool cannot catch up, and is replaced: %s", error)

    def _failed(self, error: BaseException) -> None:
        """The slot itself failed, which is a fault of the pool."""
        reason = f"the pool is broken: {error!r}"
        _log.exception("a slot of the pool failed")
        self._queue.end(lambda: TransportError(reason))

    def _commit(self, commit: Callable[[Any], int], result: Any, replica: Replica) -> None:
        """A call changed the worker: the others must follow."""
        version = commit(result)
        if version == replica.version + 1:  # else another change came between, which it lacks
            replica.version = version
        self._queue.wake()
