"""Replica: a worker of a pool, and what its slot knows of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from soma_core.channel.contract import Transport
from soma_core.client.aio.worker import AsyncWorker
from soma_core.client.pool.call import PoolCall
from soma_core.errors import DeadlineExceeded, TransportError, WorkerDied

_FRESH = 0.001  # seconds for which a worker that answered need not be looked at


@dataclass
class Replica:
    """A worker of the pool, and what its slot knows of it.

    Attributes:
        worker: The worker.
        transport: How it is reached.
        version: The version of the blueprint that it has.
        calls_left: How many calls it may still do; None for any number.
        busy: Whether it runs a call.
        used: Whether it has been sent a call.
        answered: When it last did a call well (``time.monotonic``).
        since: Since when it is there (``time.monotonic``).
    """

    worker: AsyncWorker
    transport: Transport
    version: int
    calls_left: int | None
    busy: bool = False
    used: bool = False
    answered: float = 0.0
    since: float = field(default_factory=time.monotonic)

    def is_alive(self) -> bool:
        """Whether its process runs, and its channel is open."""
        if self.worker.is_lost:
            return False
        return time.monotonic() - self.answered < _FRESH or self.transport.poll() is None

    @property
    def age(self) -> float:
        """Seconds since it is there."""
        return time.monotonic() - self.since

    def is_used_up(self) -> bool:
        """Whether it has done as many calls as it may."""
        return self.calls_left is not None and self.calls_left <= 0

    def begin(self, calls: int) -> None:
        """It is given calls."""
        self.busy, self.answered = True, 0.0
        if self.calls_left is not None:
            self.calls_left -= calls

    def give_back(self, calls: int) -> None:
        """It will never begin calls that it was given."""
        if self.calls_left is not None:
            self.calls_left += calls


def was_not_sent(call: PoolCall, error: BaseException) -> bool:
    """Whether a call can be run again: its worker was dead before it was sent anything."""
    return isinstance(error, WorkerDied) and not error.sent and call.commit is None


def ends_worker(error: BaseException) -> bool:
    """Whether the worker of a call that raised this cannot be used on."""
    if isinstance(error, DeadlineExceeded):
        return not error.worker_survived
    return isinstance(error, TransportError)
