"""CallQueue: the backlog of a pool for many threads, which wait for calls and for room."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from soma_core.channel.deadline import Deadline
from soma_core.client.pool.backlog import Backlog
from soma_core.client.pool.batching import Batching
from soma_core.client.pool.call import Outcome, PoolCall
from soma_core.client.pool.deadlines import DeadlineWatch
from soma_core.client.pool.stats import PoolStats
from soma_core.errors import SomaError

__all__ = ["CallQueue"]

_SLICE = 0.2  # seconds of a wait that Ctrl-C must be able to end


class CallQueue(Backlog):
    """A backlog whose calls threads wait for, and for room in it. Thread-safe."""

    def __init__(self, workers: int, limit: int | None, batching: Batching | None = None) -> None:
        super().__init__(workers, limit, batching)
        self._lock = threading.RLock()
        self._changes = Changes(self._lock)
        self._available = threading.Condition(self._lock)  # a call waits, or there is other work
        self._room = threading.Condition(self._lock)
        self._paused = threading.Condition(self._lock)  # those who must not take a call yet
        self._idle = 0
        self._watched: set[PoolCall] = set()
        self._deadlines = DeadlineWatch(self._watched_calls)

    def stats(self) -> PoolStats:
        with self._lock:
            return super().stats()

    def put(self, call: PoolCall, *, limited: bool = False, wait: bool = False) -> None:
        """Add a call; a limited one needs room, for which it may wait.

        Raises:
            SomaError: No more calls are taken; the message says why.
            QueueFull: There is no room, and ``wait`` is False.
            DeadlineExceeded: There was no room before its deadline.
        """
        with self._lock:
            self.check_open()
            while limited and self.is_full:
                self.check_patience(call, wait=wait)
                self._room.wait(call.due.within(_SLICE).left())
                self.check_open()
            call.on_end = self._note_end
            self._changes.make(partial(self._calls.add, call))
            self._available.notify()
        self._deadlines.add(call.due)

    def put_back(self, calls: Sequence[PoolCall], *, alone: bool = False) -> None:
        with self._lock:
            self._watched.difference_update(calls)
            super().put_back(calls, alone=alone)
            self._available.notify(len(calls))
        for call in calls:
            self._deadlines.add(call.due)
        if self._ended:
            self._fail_waiting()

    def take(self, patience: float) -> list[PoolCall]:
        """The next call, or several that one command can run.

        Empty if no call comes within so many seconds, or if there is other work.
        """
        with self._lock:
            if not self._calls and not self.over:
                self._idle += 1
                self._available.wait(patience)
                self._idle -= 1
            if not self._calls:
                return []
            calls = [self.take_first()]
            joining = self.joining(calls, idle=self._idle > 0)
            if joining is not None:
                while joining.waits:
                    self._paused.wait(joining.gap)
                    if not joining.look():
                        break
                joining.finish()
            if self.over:
                self._paused.notify_all()
            return calls

    def watch(self, calls: Iterable[PoolCall]) -> None:
        """See to the time of calls that run, since their worker does not."""
        with self._lock:
            self._watched.update(calls)
        for call in calls:
            self._deadlines.add(call.due)

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
        with self._lock:
            super().close(refusal)
            self._room.notify_all()
        self.wake()

    def join(self, deadline: Deadline) -> None:
        """End the thread that sees to deadlines, since nothing waits any more."""
        self._deadlines.close(deadline.left())

    def waiting(self) -> list[PoolCall]:
        with self._lock:
            return super().waiting()

    def _watched_calls(self) -> list[PoolCall]:
        with self._lock:
            return [*self.waiting(), *self._watched]

    def _note_end(self, call: PoolCall, outcome: Outcome) -> None:
        self.tally.add_end(call, outcome)
        self._changes.make(partial(self.forget, call))

    def forget(self, call: PoolCall) -> None:
        super().forget(call)
        self._watched.discard(call)
        if self.over:
            self._paused.notify_all()
        self._room.notify()


class Changes:
    """Makes changes one after the other, also where one interrupts another.

    A signal handler runs between any two steps of its thread: what it asks for in the midst of a
    change is done right after that.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._due: deque[Callable[[], None]] = deque()
        self._making = False

    def make(self, change: Callable[[], None]) -> None:
        """Make a change, at once or after those that are being made on this thread."""
        with self._lock:
            self._due.append(change)
            if self._making:
                return
            self._making = True
            try:
                while self._due:
                    self._due.popleft()()
            finally:
                self._making = False
