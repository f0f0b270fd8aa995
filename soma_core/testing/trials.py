"""Trials: one call with a fault in it, and how it ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from soma_core.client.worker import Worker
from soma_core.errors import DeadlineExceeded, RemoteError, SomaError, WorkerDied
from soma_core.testing.faults import CallEnd, Fault, Faulty, Moment

T = TypeVar("T")

GRACE = 3.0
"""Seconds after its deadline in which a call must have ended, whatever the filter does."""

_GIVEN_UP = 30.0
_PREPARATION = 60.0
_SHORT, _LONG = 0.5, 30.0


@dataclass(frozen=True)
class Trial:
    """How one call ended.

    Attributes:
        end: The way in which it did.
        seconds: How long it took.
        timeout: Its deadline, in seconds.
        error: What it raised, or None.
    """

    end: CallEnd
    seconds: float
    timeout: float
    error: BaseException | None = None

    @property
    def late(self) -> bool:
        """Whether it did not end by its deadline and the grace."""
        return self.end is CallEnd.NONE or self.seconds > self.timeout + GRACE

    @property
    def worker_survived(self) -> bool:
        """Whether the worker must be usable on."""
        if isinstance(self.error, DeadlineExceeded):
            return self.error.worker_survived
        return self.end in (CallEnd.RESULT, CallEnd.REMOTE_ERROR)

    def __str__(self) -> str:
        reason = f": {self.error!r}" if self.error is not None else ""
        return f"{self.end} after {self.seconds:.2f} s of {self.timeout:g} s{reason}"


def deadline_of(fault: Fault) -> float:
    """Seconds to give to a call with a fault: few where only the deadline ends it."""
    return _SHORT if fault.silent else _LONG


def attempt(call: Callable[[], Any], timeout: float, *, patience: float = _GIVEN_UP) -> Trial:
    """Make a call on a thread of its own, so that one that never ends is noticed.

    Args:
        call: The call, which has this deadline.
        timeout: Seconds.
        patience: Seconds after the deadline; then the call counts as one without an end.
    """
    begun = time.monotonic()
    outcome = outcome_within(timeout + patience, call)
    seconds = time.monotonic() - begun
    if not outcome.done():
        return Trial(CallEnd.NONE, seconds, timeout)
    return Trial(_end(outcome.exception()), seconds, timeout, outcome.exception())


def outcome_within(seconds: float, call: Callable[[], T]) -> Future[T]:
    """Make a call on a thread of its own, and wait so long for its outcome."""
    outcome = Future[T]()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="soma-outcome", daemon=True).start()
    wait([outcome], seconds)
    return outcome


def inject(worker: Worker, fault: Fault, moment: Moment, timeout: float | None = None) -> Trial:
    """Let a fault happen in a worker.

    Args:
        worker: Not to be used by anybody else meanwhile.
        fault: What happens.
        moment: When.
        timeout: The deadline of the call in seconds; None takes that of :func:`deadline_of`.

    Returns:
        How the call ended during which it happened.
    """
    seconds = deadline_of(fault) if timeout is None else timeout

    def load(patience: float) -> None:
        worker.load({"faulty": Faulty(fault, moment)}, timeout=patience)

    calls: dict[Moment, Callable[[], Any]] = {
        Moment.IMPORT: lambda: load(seconds),
        Moment.LOAD: lambda: load(seconds),
        Moment.FIT: lambda: worker.fit("faulty", [1.0], timeout=seconds),
        Moment.FORWARD: lambda: worker.forward("faulty", [1.0], timeout=seconds),
        Moment.GET_STATE: lambda: worker.get_state("faulty", timeout=seconds),
    }
    if moment not in (Moment.IMPORT, Moment.LOAD):
        load(_PREPARATION)
    return attempt(calls[moment], seconds)


def _end(error: BaseException | None) -> CallEnd:
    if error is None:
        return CallEnd.RESULT
    for kind, end in (
        (RemoteError, CallEnd.REMOTE_ERROR),
        (WorkerDied, CallEnd.WORKER_DIED),
        (DeadlineExceeded, CallEnd.DEADLINE_EXCEEDED),
        (SomaError, CallEnd.OTHER_SOMA_ERROR),
    ):
        if isinstance(error, kind):
            return end
    return CallEnd.UNTYPED_ERROR
