"""DeadlineWatch: ends the calls whose deadline passes while they wait for a worker."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable

from soma_core.channel.deadline import Deadline
from soma_core.client.pool.call import Call
from soma_core.errors import DeadlineExceeded

__all__ = ["DeadlineWatch", "waited_too_long"]

_SHORTEST = 0.01  # seconds between two looks through the waiting calls


def waited_too_long(call: Call) -> DeadlineExceeded:
    """What a call raises whose deadline has passed before a worker could begin it."""
    waited = time.monotonic() - call.submitted
    what = "the call" if call.label is None else f"the call of {call.label!r}"
    return DeadlineExceeded(
        f"{what} waited {waited:.3g} s for a worker of the pool and was not sent; its deadline "
        "has passed",
        worker_survived=True,
    )


class DeadlineWatch:
    """One thread, which runs only while a call with a deadline waits or a short time longer.

    It keeps the moment at which to look next, and no calls: a call takes its input along when it
    ends.

    Args:
        waiting: Gives the calls that wait now.
    """

    def __init__(self, waiting: Callable[[], Iterable[Call]]) -> None:
        self._waiting = waiting
        self._changed = threading.Condition()
        self._next = math.inf
        self._thread: threading.Thread | None = None

    def add(self, deadline: Deadline) -> None:
        """A call with this deadline waits from now on."""
        if deadline.at is None or deadline.at >= self._next:
            return
        with self._changed:
            self._next = min(self._next, deadline.at)
            self._changed.notify()
            if self._thread is None:
                name = "soma-pool-deadlines"
                self._thread = threading.Thread(target=self._watch, name=name, daemon=True)
                self._thread.start()

    def close(self, timeout: float | None) -> None:
        """End the thread, since no call waits any more, and wait for that so many seconds."""
        with self._changed:
            self._next = math.inf
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _watch(self) -> None:
        while self._wait():
            calls = list(self._waiting())
            for call in calls:
                if call.deadline.over():
                    call.refuse(waited_too_long(call))
            left = [call.deadline.at for call in calls if not call.ended]
            soonest = min((at for at in left if at is not None), default=math.inf)
            with self._changed:
                self._next = min(self._next, max(soonest, time.monotonic() + _SHORTEST))

    def _wait(self) -> bool:
        """Wait until it is time to look; False if nothing is left to look for."""
        with self._changed:
            while self._next > (now := time.monotonic()):
                if self._next == math.inf:
                    self._thread = None
                    return False
                self._changed.wait(min(self._next - now, threading.TIMEOUT_MAX))
            self._next = math.inf
            return True
