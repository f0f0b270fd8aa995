"""CallQueue: the backlog of a pool in an event loop, whose slots and callers await it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from soma_core.client.pool.backlog import Backlog, Joining
from soma_core.client.pool.batching import Batching
from soma_core.client.pool.call import Outcome, PoolCall
from soma_core.client.pool.paces import Paces
from soma_core.errors import SomaError

__all__ = ["CallQueue"]

_ROUNDS = 3  # of the loop, in which those whose calls have just ended call again


class CallQueue(Backlog):
    """A backlog whose calls tasks of one event loop await, and room in it.

    Attributes:
        paces: How long calls take.
    """

    def __init__(self, workers: int, limit: int | None, batching: Batching | None) -> None:
        self._loop = asyncio.get_running_loop()
        super().__init__(workers, limit, batching)
        self._idle: deque[asyncio.Future[None]] = deque()
        self._woken: asyncio.Future[None] | None = None  # who will take all that can be joined
        self._rooms: deque[asyncio.Future[None]] = deque()
        self._paused: set[asyncio.Future[None]] = set()
        self._timers: dict[PoolCall, asyncio.TimerHandle] = {}
        self.paces = Paces()

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

    async def make_room(self, call: PoolCall, *, wait: bool) -> None:
        """Make sure that there is room for a call.

        Raises:
            QueueFull: There is none, and ``wait`` is False.
            DeadlineExceeded: There was none before its deadline.
        """
        while self.is_full:
            self.check_open()
            self.check_patience(call, wait=wait)
            await self._wait_for_room(call)

    async def _wait_for_room(self, call: PoolCall) -> None:
        room = self._loop.create_future()
        self._rooms.append(room)
        try:
            await asyncio.wait([room], timeout=call.due.left())
        except BaseException:
            if room.done():  # the room is for somebody else
                _wake_one(self._rooms)
            raise
        finally:
            room.cancel()

    def put_back(self, calls: Sequence[PoolCall], *, alone: bool = False) -> None:
        super().put_back(calls, alone=alone)
        for call in calls:
            if not call.ended:
                self._arm(call)
                _wake_one(self._idle)
        if self._ended:
            self._fail_waiting()

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
        if calls[0].joinable is not None:
            self.add_joinable(calls)
            if self._calls and self._idle:
                self._woken = _wake_one(self._idle)  # for those that could not join
        joining = self.joining(calls, idle=bool(self._idle))
        if joining is not None:
            try:
                await self._join(joining)
            except BaseException:
                self.put_back(calls)
                raise
            joining.finish()
        return calls

    async def _join(self, joining: Joining) -> None:
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

    def close(self, refusal: Callable[[], SomaError]) -> None:
        super().close(refusal)
        while self._rooms:
            _wake_one(self._rooms)
        self.wake()

    def _note_end(self, call: PoolCall, outcome: Outcome) -> None:
        self.tally.add_end(call, outcome)
        self.forget(call)
        if call in self._timers:
            self._disarm(call)
        if self._rooms:
            _wake_one(self._rooms)
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


def _wake_one(waiters: deque[asyncio.Future[None]]) -> asyncio.Future[None] | None:
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
            return waiter
    return None
