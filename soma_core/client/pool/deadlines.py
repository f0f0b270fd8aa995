"""DeadlineWatch: ends calls whose time is over while no worker sees to that."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable

from soma_core.channel.deadline import Deadline
from soma_core.client.pool.call import PoolCall

__all__ = ["DeadlineWatch"]

_SHORTEST = 0.01  # seconds between two looks through the calls


class DeadlineWatch:
    """One thread, which runs only while a call with a deadline waits or a short time longer.

    It keeps the moment at which to look next, and no calls: a call takes its input along when it
    ends.
    """

    def __init__(self, calls: Callable[[], Iterable[PoolCall]]) -> None:
        self._calls = calls
        self._changed = threading.Condition()
        self._next = math.inf
        self._thread: threading.Thread | None = None

    def add(self, due: Deadline) -> None:
        """One of the calls to see to is due then."""
        if due.at is None or due.at >= self._next:
            return
        with self._changed:
            self._next = min(self._next, due.at)
            self._changed.notify()
            if self._thread is None:
                name = "soma-pool-deadlines"
                self._thread = threading.Thread(target=self._watch, name=name, daemon=True)
                self._thread.start()

    def close(self, timeout: float | None) -> None:
        """End the thread, since there is nothing to see to, and wait for that so many seconds."""
        with self._changed:
            self._next = math.inf
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _watch(self) -> None:
        while self._wait():
            calls = list(self._calls())
            for call in calls:
                call.expire()
            left = [call.due.at for call in calls if not call.ended]
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
