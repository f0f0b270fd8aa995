"""CallQueue: the calls of a pool that no worker has taken yet, and how many may wait."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from soma_core.channel.deadline import Deadline
from soma_core.client.pool.call import Call, Outcome
from soma_core.client.pool.deadlines import DeadlineWatch, waited_too_long
from soma_core.client.pool.stats import PoolStats, Tally
from soma_core.errors import QueueFull, SomaError

__all__ = ["CallQueue"]

_SLICE = 0.2  # seconds of a wait that Ctrl-C must be able to end


class CallQueue:
    """The waiting calls by priority and in order, and whether more may come. Thread-safe.

    Args:
        workers: How many calls can run at once.
        limit: How many calls may wait beyond those; None for any number.

    Attributes:
        workers: As given; it may be changed.
        tally: Counts what happens in the pool.
    """

    def __init__(self, workers: int, limit: int | None) -> None:
        self.workers = workers
        self.tally = Tally()
        self._limit = limit
        self._lock = threading.Lock()
        self._available = threading.Condition(self._lock)  # a call waits, or there is other work
        self._room = threading.Condition(self._lock)
        self._paused = threading.Condition(self._lock)  # those who must not take a call yet
        self._levels: dict[int, OrderedDict[Call, None]] = {}
        self._running = 0
        self._refusal: Callable[[], SomaError] | None = None
        self._ended = False
        self._deadlines = DeadlineWatch(self._waiting)

    def __len__(self) -> int:
        return sum(map(len, list(self._levels.values())))

    @property
    def over(self) -> bool:
        """Whether nothing is left to do, and nothing will come."""
        return self._refusal is not None and not self._levels

    def stats(self) -> PoolStats:
        """What the pool does, and has done."""
        with self._lock:
            queued, running = len(self), self._running
        return self.tally.stats(workers=self.workers, queued=queued, running=running)

    def put(self, call: Call, *, limited: bool = False, wait: bool = False) -> None:
        """Add a call.

        Args:
            call: The call.
            limited: Whether it counts against the limit.
            wait: Whether to wait until there is room for it.

        Raises:
            SomaError: No more calls are taken; the message says why.
            QueueFull: There is no room, and ``wait`` is False.
            DeadlineExceeded: There was no room before its deadline.
        """
        with self._lock:
            self.check_open()
            while limited and self._is_full():
                self._wait_for_room(call, wait)
                self.check_open()
            call.on_end = self._note_end
            self._levels.setdefault(call.priority, OrderedDict())[call] = None
            self._available.notify()
        self._deadlines.add(call.deadline)

    def check_open(self) -> None:
        """Raise what :meth:`put` would of a pool that takes no more calls."""
        if self._refusal is not None:
            raise self._refusal()

    def put_back(self, call: Call) -> None:
        """Let another worker take a call that one has taken; it is the next of its priority."""
        with self._lock:
            self._running -= 1
            if not call.ended:
                level = self._levels.setdefault(call.priority, OrderedDict())
                level[call] = None
                level.move_to_end(call, last=False)
                self._available.notify()
        if self._ended:
            self._fail_waiting()

    def take(self, patience: float) -> Call | None:
        """The next call; None if there is none in so many seconds, or after :meth:`wake`."""
        with self._lock:
            if not self._levels and self._refusal is None:
                self._available.wait(patience)
            if not self._levels:
                return None
            priority = max(self._levels)
            call, _ = self._levels[priority].popitem(last=False)
            self._drop_if_empty(priority)
            self._running += 1
            return call

    def finish(self) -> None:
        """A call that was taken is no longer run."""
        with self._lock:
            self._running -= 1
            self._room.notify()

    def wake(self) -> None:
        """Let everybody who waits for a call, or pauses, look for other work."""
        with self._lock:
            self._available.notify_all()
            self._paused.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait so long, but only until the next :meth:`wake`, and not once all is over."""
        with self._lock:
            if seconds > 0 and not self.over:
                self._paused.wait(seconds)

    def close(self, refusal: Callable[[], SomaError]) -> None:
        """Take no more calls; those that wait are still run. Only the first refusal counts."""
        with self._lock:
            self._refusal = self._refusal or refusal
            self._room.notify_all()
        self.wake()

    def end(self, refusal: Callable[[], SomaError]) -> None:
        """Take no more calls, and fail those that wait."""
        self.close(refusal)
        self._ended = True
        self._fail_waiting()

    def cancel(self) -> None:
        """Cancel the calls that wait."""
        for call in self._waiting():
            call.future.cancel(interrupt=False)

    def join(self, deadline: Deadline) -> None:
        """End the thread that sees to deadlines, since nothing waits any more."""
        self._deadlines.close(deadline.left())

    def _fail_waiting(self) -> None:
        assert self._refusal is not None
        for call in self._waiting():
            call.refuse(self._refusal())

    def _waiting(self) -> list[Call]:
        with self._lock:
            return [call for level in self._levels.values() for call in level]

    def _is_full(self) -> bool:
        if self._limit is None:
            return False
        return len(self) + self._running >= self.workers + self._limit

    def _wait_for_room(self, call: Call, wait: bool) -> None:
        if not wait:
            self.tally.add_refusal()
            raise QueueFull(
                f"{len(self)} calls wait for a worker of the pool, and max_queue is {self._limit}; "
                "try again later, or raise max_queue"
            )
        if call.deadline.over():
            raise waited_too_long(call)
        self._room.wait(call.deadline.within(_SLICE).left())

    def _note_end(self, call: Call, outcome: Outcome) -> None:
        self.tally.add_end(call, outcome)
        with self._lock, suppress(KeyError):  # a worker had it
            del self._levels[call.priority][call]
            self._drop_if_empty(call.priority)
            self._room.notify()

    def _drop_if_empty(self, priority: int) -> None:
        if not self._levels[priority]:
            del self._levels[priority]
        if self.over:
            self._paused.notify_all()
