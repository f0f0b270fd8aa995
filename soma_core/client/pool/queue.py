"""CallQueue: the calls of a pool that no worker has taken yet."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from soma_core.client.worker import Worker
from soma_core.errors import SomaError

__all__ = ["Call", "CallQueue"]

_log = logging.getLogger("soma.pool")


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a pool.

    Attributes:
        run: Does it on a worker, and returns the result.
        commit: Called with the result if the call changed the worker: makes the change one of
            the blueprint, and returns the version of that.
        replace_on_error: Whether a call that fails may leave the worker half changed, so that it
            must be replaced.
        future: Receives how it ends.
    """

    run: Callable[[Worker], Any]
    commit: Callable[[Any], int] | None = None
    replace_on_error: bool = False
    future: Future[Any] = field(default_factory=Future)

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """End the future; what its callbacks raise is logged, and stops nobody."""
        try:
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(result)
        except BaseException:
            _log.exception("a callback of a call's future failed")


class CallQueue:
    """The waiting calls in order, and whether more may come. Thread-safe."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque()
        self._changed = threading.Condition()
        self._refusal: Callable[[], SomaError] | None = None
        self._ended = False

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do, and nothing will come."""
        return self._refusal is not None and not self._calls

    def put(self, call: Call) -> None:
        """Add a call.

        Raises:
            SomaError: No more calls are taken; the message says why.
        """
        with self._changed:
            self.check_open()
            self._calls.append(call)
            self._changed.notify()

    def check_open(self) -> None:
        """Raise what :meth:`put` would."""
        if self._refusal is not None:
            raise self._refusal()

    def put_back(self, call: Call) -> None:
        """Let another worker take a call that one has taken and not begun."""
        with self._changed:
            self._calls.appendleft(call)
            self._changed.notify()
        if self._ended:
            self._fail_waiting()

    def take(self, patience: float) -> Call | None:
        """The next call; None if there is none in so many seconds, or after :meth:`wake`."""
        with self._changed:
            if not self._calls and self._refusal is None:
                self._changed.wait(patience)
            return self._calls.popleft() if self._calls else None

    def wake(self) -> None:
        """Let everybody who waits for a call look for other work."""
        with self._changed:
            self._changed.notify_all()

    def sleep(self, seconds: float) -> None:
        """Wait so long, but not once no more calls are taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._refusal is not None, seconds)

    def close(self, refusal: Callable[[], SomaError]) -> None:
        """Take no more calls; those that wait are still run. Only the first refusal counts."""
        with self._changed:
            self._refusal = self._refusal or refusal
            self._changed.notify_all()

    def end(self, refusal: Callable[[], SomaError]) -> None:
        """Take no more calls, and fail those that wait."""
        self.close(refusal)
        self._ended = True
        self._fail_waiting()

    def cancel(self) -> None:
        """Cancel the calls that wait."""
        for call in self._remove_all():
            call.future.cancel()
            call.future.set_running_or_notify_cancel()

    def _fail_waiting(self) -> None:
        assert self._refusal is not None
        for call in self._remove_all():
            if call.future.set_running_or_notify_cancel():
                call.settle(error=self._refusal())

    def _remove_all(self) -> list[Call]:
        with self._changed:
            calls = list(self._calls)
            self._calls.clear()
            return calls
