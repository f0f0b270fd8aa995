"""Backlog: which calls of a pool wait, how many may, and which are run together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from soma_core.channel.deadline import Deadline
from soma_core.client.pool.batching import Batching
from soma_core.client.pool.call import PoolCall
from soma_core.client.pool.stats import PoolStats, Tally
from soma_core.client.pool.waiting import WaitingCalls
from soma_core.errors import QueueFull, SomaError

__all__ = ["Backlog", "Joining"]


class Backlog:
    """The calls of a pool that no worker has taken yet: what any queue of them knows.

    It never waits, and is not thread-safe; a queue adds how its callers and workers wait.

    Args:
        workers: How many calls can run at once.
        limit: How many calls may wait beyond those; None for any number.
        batching: How calls are joined; None if they are not.

    Attributes:
        workers: As given; it may be changed.
        tally: Counts what happens in the pool.
        running: How many calls workers have.
        refusal: Makes the error of a call that comes now; None as long as calls are taken.
    """

    def __init__(self, workers: int, limit: int | None, batching: Batching | None = None) -> None:
        self.workers = workers
        self.tally = Tally()
        self.running = 0
        self.refusal: Callable[[], SomaError] | None = None
        self._ended = False
        self._limit, self._batching = limit, batching
        self._calls = WaitingCalls()
        self._last_batch: dict[str | None, int] = {}

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do, and nothing will come."""
        return self.refusal is not None and not self._calls

    @property
    def is_full(self) -> bool:
        """Whether no more calls may wait."""
        if self._limit is None:
            return False
        return len(self) + self.running >= self.workers + self._limit

    def waiting(self) -> list[PoolCall]:
        """The calls that wait."""
        return list(self._calls)

    def stats(self) -> PoolStats:
        """What the pool does, and has done."""
        return self.tally.stats(workers=self.workers, queued=len(self), running=self.running)

    def check_open(self) -> None:
        """Raise what putting a call would of a pool that takes no more calls."""
        if self.refusal is not None:
            raise self.refusal()

    def check_patience(self, call: PoolCall, *, wait: bool) -> None:
        """Refuse a call for which there is no room, unless it may wait and still has time.

        Raises:
            QueueFull: ``wait`` is False.
            DeadlineExceeded: Its deadline is over.
        """
        if not wait:
            self.tally.add_refusal()
            waiting = len(self) + self.running - self.workers  # some are being taken just now
            raise QueueFull(
                f"{waiting} calls wait for a worker of the pool, and max_queue is {self._limit}; "
                "try again later, or raise max_queue"
            )
        if call.due.over():
            raise call.excess()

    def resize(self, workers: int) -> None:
        """So many calls can run at once from now on."""
        self.workers = workers

    def close(self, refusal: Callable[[], SomaError]) -> None:
        """Take no more calls; those that wait are still run. Only the first refusal counts."""
        self.refusal = self.refusal or refusal

    def end(self, refusal: Callable[[], SomaError]) -> None:
        """Take no more calls, and fail those that wait."""
        self.close(refusal)
        self._ended = True
        self._fail_waiting()

    def cancel(self) -> None:
        """Cancel the calls that wait."""
        for call in self.waiting():
            if call.future is not None:
                call.future.cancel(interrupt=False)

    def _fail_waiting(self) -> None:
        assert self.refusal is not None
        for call in self.waiting():
            call.refuse(self.refusal())

    def put_back(self, calls: Sequence[PoolCall], *, alone: bool = False) -> None:
        """Let other workers take calls that one has taken; they are the next of their priority.

        Args:
            calls: Those of them that have not ended are put back.
            alone: Whether each is to be run without others.
        """
        for call in reversed(calls):
            if call.ended:
                continue
            if alone:
                call.joinable, call.ahead = None, False
            call.wait_again()
            self.running -= 1
            self._calls.add(call, first=True)

    @property
    def share(self) -> int:
        """How many calls each worker has, if they share all that wait and run evenly."""
        return -(-(len(self._calls) + self.running) // self.workers)

    def first(self) -> PoolCall | None:
        """The next call, or None."""
        return self._calls.first() if self._calls else None

    def take_first(self) -> PoolCall:
        """The next call alone; there must be one."""
        return self._take(self._calls.first())

    def add_joinable(self, calls: list[PoolCall]) -> int:
        """Add the waiting calls to some that may run together; returns the rows that all have."""
        rows = sum(call.joinable.rows for call in calls if call.joinable is not None)
        if self._batching is None or calls[0].joinable is None:
            return rows
        for call in self._calls.alike(calls[0]):
            more = 0 if call.joinable is None else call.joinable.rows
            if rows + more > self._batching.max_rows:
                break
            rows += more
            calls.append(self._take(call))
        return rows

    def joining(self, calls: list[PoolCall], *, idle: bool) -> Joining | None:
        """How to wait for others that may run with calls that were taken; None not to.

        Nothing waits while a worker is idle.
        """
        if self._batching is None or calls[0].joinable is None:
            return None
        return Joining(self, calls, self._batching, self._last_batch, idle=idle)

    def forget(self, call: PoolCall) -> None:
        """A call has ended, wherever it was."""
        if not self._calls.remove(call):
            self.running -= 1

    def _take(self, call: PoolCall) -> PoolCall:
        self._calls.remove(call)
        self.running += 1
        return call


class Joining:
    """Calls that are put together under load: those that come are waited for, for a while.

    There is load if all workers are busy and the last batch was large. Then the callers of that
    batch may be about to call again: they are waited for as long as they keep coming.

    Args:
        backlog: Where they wait.
        calls: Those that were taken; receives the others.
        batching: The bounds.
        last_batch: How many rows the last command of each label had; receives that of this one.
        idle: Whether a worker has nothing to do.

    Attributes:
        gap: Seconds between two looks for further calls.
    """

    _GAPS = 10  # looks in the longest delay; the batch goes when a look finds no further call

    def __init__(
        self,
        backlog: Backlog,
        calls: list[PoolCall],
        batching: Batching,
        last_batch: dict[str | None, int],
        *,
        idle: bool,
    ) -> None:
        self._backlog, self._calls, self._last_batch = backlog, calls, last_batch
        label, expected = calls[0].label, last_batch.get(calls[0].label, 0)
        self._label, self._expected = label, expected
        self._rows = backlog.add_joinable(calls)
        self._most = batching.max_rows
        self._large = expected * 4 >= batching.max_rows
        self._idle = idle
        self._end = Deadline(calls[0].submitted + batching.max_delay)
        self.gap = batching.max_delay / self._GAPS

    @property
    def gathers(self) -> bool:
        """Whether calls that come at this very moment are taken too, which delays nobody."""
        return self._large and self._rows < self._most

    @property
    def waits(self) -> bool:
        """Whether to wait a gap, and then :meth:`look` again."""
        if self._idle or not self._large:
            return False
        return self._rows < self._expected and not self._end.over()

    def look(self) -> bool:
        """Take the calls that have come; returns whether there were any."""
        before, self._rows = self._rows, self._backlog.add_joinable(self._calls)
        return self._rows > before

    def finish(self) -> None:
        """The batch goes."""
        self._last_batch[self._label] = self._rows
