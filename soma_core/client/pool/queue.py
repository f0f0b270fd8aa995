"""CallQueue: the calls of a pool that no worker has taken yet; slots and callers await it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from soma_core.client.pool.batching import Batching
from soma_core.client.pool.call import CallOutcome, PoolCall
from soma_core.client.pool.joining import Joining
from soma_core.client.pool.paces import Paces
from soma_core.client.pool.stats import PoolStats, Tally
from soma_core.client.pool.waiting_calls import WaitingCalls
from soma_core.errors import QueueFull, SomaError

_ROUNDS = 3  # of the loop, in which those whose calls have just ended call again


class CallQueue:
    """The calls of a pool that no worker has taken yet. Used in one event loop, which runs.

    Args:
        workers: How many calls can run at once.
        limit: How many calls may wait beyond those; None for any number.
        batching: How calls are joined; None if they are not.

    Attributes:
        workers: As given; it may be changed.
        tally: Counts what happens in the pool.
        paces: How long calls take.
        running: How many calls workers have.
        refusal: Makes the error of a call that comes now; None as long as calls are taken.
    """

    def __init__(self, workers: int, limit: int | None, batching: Batching | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self.workers = workers
        self.tally, self.paces = Tally(), Paces()
        self.running = 0
        self.refusal: Callable[[], SomaError] | None = None
        self._ended = False
        self._limit, self._batching = limit, batching
        self._calls = WaitingCalls()
        self._last_batch: dict[str | None, int] = {}
        self._idle: deque[asyncio.Future[None]] = deque()
        self._woken: asyncio.Future[None] | None = None  # who will take all that can be joined
        self._rooms: deque[asyncio.Future[None]] = deque()
        self._promised = 0  # to tasks that have not gone on yet
        self._paused: set[asyncio.Future[None]] = set()
        self._timers: dict[PoolCall, asyncio.TimerHandle] = {}

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

    @property
    def share(self) -> int:
        """How many calls each worker has, if they share all that wait and run evenly."""
        return -(-(len(self) + self.running) // self.workers)

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
        if wait and not call.due.over():
            return
        self.tally.refused += 1
        if not wait:
            waiting = len(self) + self.running - self.workers  # some are being taken just now
            raise QueueFull(
                f"{waiting} calls wait for a worker of the pool, and max_queue is {self._limit}; "
                "try again later, or raise max_queue"
            )
        raise call.excess()

    async def make_room(self, call: PoolCall, *, wait: bool) -> None:
        """Make sure that there is room for a call: first come, first served.

        Raises:
            QueueFull: There is none, and ``wait`` is False.
            DeadlineExceeded: There was none before its deadline.
        """
        comes_next = not (self._rooms or self._promised)
        while self.is_full or not comes_next:
            self.check_open()
            self.check_patience(call, wait=wait)
            comes_next = await self._wait_for_room(call, first=comes_next)

    async def _wait_for_room(self, call: PoolCall, *, first: bool) -> bool:
        """Wait behind those that wait, or before them; returns whether room is promised."""
        room = self._loop.create_future()
        (self._rooms.appendleft if first else self._rooms.append)(room)
        try:
            await asyncio.wait([room], timeout=call.due.left())
        except BaseException:
            if room.done():  # the room is for somebody else
                self._promise_room()
            raise
        finally:
            if room.done():
                self._promised -= 1
            else:
                self._rooms.remove(room)
        return room.done()

    def _promise_room(self) -> None:
        """Let the next of those that wait for room go on."""
        if _wake_one(self._rooms) is not None:
            self._promised += 1

    def put(self, call: PoolCall) -> None:
        """Add a call, whether there is room or not, unless it has ended by now.

        Raises:
            SomaError: No more calls are taken; the message says why.
        """
        self.check_open()
        if call.ended:  # cancelled on its way
            return
        call.on_end = self._note_end
        self._calls.add(call)
        if call.due.at is not None:
            self._arm(call)
        if self._idle and (call.joinable is None or self._woken is None):
            self._woken = _wake_one(self._idle)
        if self._rooms and not self.is_full:  # there are more workers
            self._promise_room()

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
            self._arm(call)
            _wake_one(self._idle)
        if self._ended:
            self._fail_waiting()

    def first(self) -> PoolCall | None:
        """The next call, or None."""
        return self._calls.first() if self._calls else None

    def take_first(self) -> PoolCall:
        """The next call alone; there must be one."""
        return self._take(self._calls.first())

    async def take(self) -> list[PoolCall]:
        """The next call, or several that one command can run; empty if there is other work."""
        if not self._calls and not self.over:
            waiter = self._loop.create_future()
            self._idle.append(waiter)
            try:
                await waiter
            finally:
                if self._woken is waiter:
                    self._woken = None
        if not self._calls:
            return []
        calls = [self.take_first()]
        if calls[0].joinable is not None and self._batching is not None:
            await self._join(calls, self._batching)
        return calls

    async def _join(self, calls: list[PoolCall], batching: Batching) -> None:
        """Add those that may run with a call, and those that come while nobody else could."""
        self._add_alike(calls)
        if self._calls and self._idle:
            self._woken = _wake_one(self._idle)  # for those that could not join
        joining = Joining(self._add_alike, calls, batching, self._last_batch, idle=bool(self._idle))
        try:
            await _gather(joining)
        except BaseException:
            self.put_back(calls)
            raise
        joining.finish()

    def _add_alike(self, calls: list[PoolCall]) -> int:
        """Add the waiting calls to some that may run together; returns the rows that all have."""
        assert self._batching is not None
        rows = sum(call.joinable.rows for call in calls if call.joinable is not None)
        for call in self._calls.alike(calls[0]):
            more = 0 if call.joinable is None else call.joinable.rows
            if rows + more > self._batching.max_rows:
                break
            rows += more
            calls.append(self._take(call))
        return rows

    def _take(self, call: PoolCall) -> PoolCall:
        self._calls.remove(call)
        self.running += 1
        return call

    def close(self, refusal: Callable[[], SomaError]) -> None:
        """Take no more calls; those that wait are still run. Only the first refusal counts."""
        self.refusal = self.refusal or refusal
        while self._rooms:
            self._promise_room()
        self.wake()

    def end(self, refusal: Callable[[], SomaError]) -> None:
        """Take no more calls, and fail those that wait."""
        self.close(refusal)
        self._ended = True
        self._fail_waiting()

    def cancel(self) -> None:
        """Cancel the calls that wait."""
        for call in list(self._calls):
            if call.future is not None:
                call.future.cancel(interrupt=False)

    def _fail_waiting(self) -> None:
        assert self.refusal is not None
        for call in list(self._calls):
            call.refuse(self.refusal())

    def watch(self, calls: Iterable[PoolCall]) -> None:
        """See to the time of calls that run, since their worker does not."""
        for call in calls:
            self._arm(call)

    def wake(self) -> None:
        """Let every slot look for other work than calls."""
        for waiter in (*self._idle, *self._paused):
            if not waiter.done():
                waiter.set_result(None)
        self._idle.clear()

    async def pause(self, seconds: float) -> None:
        """Wait so long, but only until the next :meth:`wake`, and not once all is over."""
        if seconds <= 0 or self.over:
            return
        waiter = self._loop.create_future()
        self._paused.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=seconds)
        finally:
            self._paused.discard(waiter)

    def _note_end(self, call: PoolCall, outcome: CallOutcome) -> None:
        self.tally.add_end(call, outcome)
        if not self._calls.remove(call):
            self.running -= 1
        if call in self._timers:
            self._disarm(call)
        if self._rooms:
            self._promise_room()
        if self.refusal is not None and self.over:
            self.wake()

    def _arm(self, call: PoolCall) -> None:
        """End a call when it is due, unless a worker sees to that by then."""
        self._disarm(call)
        left = call.due.left()
        if left is not None and not call.ended:
            self._timers[call] = self._loop.call_later(left, self._expire, call)

    def _disarm(self, call: PoolCall) -> None:
        timer = self._timers.pop(call, None)
        if timer is not None:
            timer.cancel()

    def _expire(self, call: PoolCall) -> None:
        del self._timers[call]
        call.expire()
        self._arm(call)  # the loop's clock may be ahead, or it is due later by now


async def _gather(joining: Joining) -> None:
    """Wait for calls as long as they keep coming: first for those of this loop."""
    for _ in range(_ROUNDS):
        if not joining.gathers:
            return
        await asyncio.sleep(0)
        if not joining.look():
            break
    while joining.waits:
        await asyncio.sleep(joining.gap)
        if not joining.look():
            return


def _wake_one(waiters: deque[asyncio.Future[None]]) -> asyncio.Future[None] | None:
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
            return waiter
    return None
