"""CallQueue: the calls of a pool that no worker has taken yet, and how many may wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from soma_core.channel.deadline import Deadline
from soma_core.client.pool.batching import Batching
from soma_core.client.pool.call import Call, Outcome
from soma_core.client.pool.deadlines import DeadlineWatch
from soma_core.client.pool.stats import PoolStats, Tally
from soma_core.client.pool.waiting import WaitingCalls
from soma_core.errors import QueueFull, SomaError

__all__ = ["CallQueue"]

_SLICE = 0.2  # seconds of a wait that Ctrl-C must be able to end
_GAPS = 10  # looks in the longest delay of a batch; it goes when a look finds no further call


class CallQueue:
    """The waiting calls by priority and in order, and whether more may come. Thread-safe.

    Args:
        workers: How many calls can run at once.
        limit: How many calls may wait beyond those; None for any number.
        batching: How calls are joined; None if they are not.

    Attributes:
        workers: As given; it may be changed.
        tally: Counts what happens in the pool.
    """

    def __init__(self, workers: int, limit: int | None, batching: Batching | None = None) -> None:
        self.workers = workers
        self.tally = Tally()
        self._limit, self._batching = limit, batching
        self._lock = threading.Lock()
        self._available = threading.Condition(self._lock)  # a call waits, or there is other work
        self._room = threading.Condition(self._lock)
        self._paused = threading.Condition(self._lock)  # those who must not take a call yet
        self._calls = WaitingCalls()
        self._idle = 0
        self._running = 0
        self._watched: set[Call] = set()
        self._last_batch: dict[str | None, int] = {}
        self._refusal: Callable[[], SomaError] | None = None
        self._ended = False
        self._deadlines = DeadlineWatch(self._watched_calls)

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do, and nothing will come."""
        return self._refusal is not None and not self._calls

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
            self._calls.add(call)
            self._available.notify()
        self._deadlines.add(call.due)

    def check_open(self) -> None:
        """Raise what :meth:`put` would of a pool that takes no more calls."""
        if self._refusal is not None:
            raise self._refusal()

    def put_back(self, calls: Sequence[Call], *, alone: bool = False) -> None:
        """Let other workers take calls that one has taken; they are the next of their priority.

        Args:
            calls: Those of them that have not ended are put back.
            alone: Whether each is to be run without others.
        """
        with self._lock:
            for call in reversed(calls):
                self._watched.discard(call)
                if call.ended:
                    continue
                if alone:
                    call.joinable = None
                call.wait_again()
                self._running -= 1
                self._calls.add(call, first=True)
            self._available.notify(len(calls))
        for call in calls:
            self._deadlines.add(call.due)
        if self._ended:
            self._fail_waiting()

    def take(self, patience: float) -> list[Call]:
        """The next call, or several that one command can run.

        Empty if no call comes within so many seconds, or if there is other work.
        """
        with self._lock:
            if not self._calls and self._refusal is None:
                self._idle += 1
                self._available.wait(patience)
                self._idle -= 1
            if not self._calls:
                return []
            calls = [self._take(self._calls.first())]
            if self._batching is not None and calls[0].joinable is not None:
                self._join(calls, self._batching)
            if self.over:
                self._paused.notify_all()
            return calls

    def watch(self, calls: Iterable[Call]) -> None:
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
            return list(self._calls)

    def _watched_calls(self) -> list[Call]:
        with self._lock:
            return [*self._calls, *self._watched]

    def _take(self, call: Call) -> Call:
        self._calls.remove(call)
        self._running += 1
        return call

    def _join(self, calls: list[Call], batching: Batching) -> None:
        """Take the calls that may run with the first one; under load, wait for those that come.

        There is load if all workers are busy and the last batch was large. Then the callers of
        that batch may be about to call again: they are waited for as long as they keep coming.
        """
        first = calls[0]
        end = Deadline(first.submitted + batching.max_delay)
        expected = self._last_batch.get(first.label, 0)
        rows = self._join_waiting(calls, batching.max_rows)
        loaded = not self._idle and expected * 4 >= batching.max_rows
        while loaded and rows < expected and not end.over():
            self._paused.wait(batching.max_delay / _GAPS)
            before, rows = rows, self._join_waiting(calls, batching.max_rows)
            if rows == before:
                break
        self._last_batch[first.label] = rows

    def _join_waiting(self, calls: list[Call], max_rows: int) -> int:
        """Take the waiting calls that fit; returns how many rows all have together."""
        rows = sum(call.joinable.rows for call in calls if call.joinable is not None)
        for call in self._calls.alike(calls[0]):
            more = 0 if call.joinable is None else call.joinable.rows
            if rows + more > max_rows:
                break
            rows += more
            calls.append(self._take(call))
        return rows

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
        if call.due.over():
            raise call.excess()
        self._room.wait(call.due.within(_SLICE).left())

    def _note_end(self, call: Call, outcome: Outcome) -> None:
        self.tally.add_end(call, outcome)
        with self._lock:
            if not self._calls.remove(call):
                self._running -= 1
                self._watched.discard(call)
            elif self.over:
                self._paused.notify_all()
            self._room.notify()
