"""SlotGroup: the workers of a pool and its queue, started, made more or fewer, and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain, count, repeat

from soma_core.channel.deadline import Deadline
from soma_core.client.pool.plan import PoolPlan
from soma_core.client.pool.queue import CallQueue
from soma_core.client.pool.slot import Slot
from soma_core.client.results import WorkerStatus
from soma_core.errors import ChannelClosed

CLOSING = 4.5
"""Seconds that the end of a pool waits for its workers, which are ended before that."""


class SlotGroup:
    """The workers of a pool in the event loop that runs, each in its slot, and their queue.

    Args:
        plan: What the pool is to be.

    Attributes:
        queue: The calls that wait.
        slots: Those that the pool has now.
    """

    def __init__(self, plan: PoolPlan) -> None:
        self.queue = CallQueue(plan.n, plan.max_queue, plan.batching)
        self.slots: tuple[Slot, ...] = ()
        self._plan = plan
        self._numbers = count(1)
        self._leaving: tuple[Slot, ...] = ()
        self._resizing = asyncio.Lock()

    @property
    def state(self) -> str:
        """What it does, in a few words."""
        if self.queue.over:
            return "closed"
        return f"{sum(slot.busy for slot in self.slots)} busy, {len(self.queue)} waiting"

    def status(self) -> list[WorkerStatus]:
        """What is known of each worker without asking it; one that is being replaced is absent."""
        workers = [slot.worker for slot in self.slots]
        return [worker.status() for worker in workers if worker is not None]

    async def start(self) -> None:
        """Start the workers.

        Raises:
            Exception: One cannot be started, or batching does not fit the nodes; none is left.
        """
        try:
            await self.resize(self._plan.n)
            if self._plan.batching is not None:
                self._plan.batching.check(self._plan.blueprint.metas)
        except BaseException:
            await self.close()
            raise

    async def resize(self, n: int) -> None:
        """Have so many slots, once their workers are started; those too many end after their call.

        Raises:
            Exception: A worker cannot be started; then the slots are those of before.
        """
        async with self._resizing:
            self.queue.check_open()
            more = n - len(self.slots)
            self.queue.workers = n
            if more > 0:
                await self._add(more)
            elif more < 0:
                idle_first = sorted(self.slots, key=lambda slot: slot.busy)
                self._remove(idle_first[:-more])

    async def _add(self, n: int) -> None:
        before = self.slots
        new = [self._slot(number, n) for number in range(1, n + 1)]
        self.slots = (*before, *new)
        starts = [slot.started for slot in new]
        try:
            await asyncio.wait(starts, return_when=asyncio.FIRST_EXCEPTION)
            for start in starts:
                if start.done():
                    start.result()
        except BaseException:
            for start in starts:  # one of them is raised, and that is enough
                start.add_done_callback(asyncio.Future.exception)
            self.slots = before
            self.queue.workers = len(before)
            self._leaving += tuple(new)
            await _end(new)
            raise

    def _slot(self, number: int, among: int) -> Slot:
        """A new slot; the first workers of those made together are not recycled together."""
        life = self._plan.recycle_after
        first = None if life is None else -(-life * number // among)
        quotas = chain([first], repeat(life))
        number = next(self._numbers)
        return Slot(self.queue, self._plan.blueprint, quotas, self._has_workers, number)

    def _has_workers(self) -> bool:
        return any(slot.worker is not None for slot in self.slots)

    def _remove(self, slots: Sequence[Slot]) -> None:
        self.slots = tuple(slot for slot in self.slots if slot not in slots)
        leaving = (slot for slot in self._leaving if not slot.task.done())
        self._leaving = (*leaving, *slots)
        for slot in slots:
            slot.retire()

    async def refresh(self) -> None:
        """Replace the workers, one after the other.

        Raises:
            Exception: Another worker did not start; those that are not replaced yet stay.
        """
        async with self._resizing:
            self.queue.check_open()
            for slot in self.slots:
                await slot.renew(next(self._numbers))

    def shut_down(self, *, cancel_futures: bool) -> None:
        """Take no more calls; those that wait are run, or cancelled. The workers end then."""
        self.queue.close(lambda: ChannelClosed("the pool was shut down"))
        if cancel_futures:
            self.queue.cancel()

    async def close(self) -> None:
        """End all workers and calls; wait for that, but not for long."""
        self.queue.end(lambda: ChannelClosed("the pool was closed"))
        await _end([*self.slots, *self._leaving])

    async def close_workers(self) -> None:
        """End all workers, where the loop of the slots is closed: their tasks do nothing more."""
        for slot in (*self.slots, *self._leaving):
            if slot.worker is not None:
                await slot.worker.close()

    @property
    def ended(self) -> bool:
        """Whether all have ended."""
        return all(slot.task.done() for slot in (*self.slots, *self._leaving))

    async def join(self, deadline: Deadline) -> bool:
        """Wait until all have ended by themselves; False if they have not by the deadline."""
        return await _ended([*self.slots, *self._leaving], deadline)


async def _end(slots: Sequence[Slot]) -> None:
    deadline = Deadline.after(CLOSING)
    await asyncio.gather(*(slot.close() for slot in slots))
    await _ended(slots, deadline)


async def _ended(slots: Sequence[Slot], deadline: Deadline) -> bool:
    tasks = [slot.task for slot in slots]
    if not tasks:
        return True
    _, pending = await asyncio.wait(tasks, timeout=deadline.left())
    return not pending
