"""SlotGroup: the slots of a pool, started, made more or fewer, and ended together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain, count, repeat

from soma_core.channel.deadline import Deadline
from soma_core.client.pool.blueprint import Blueprint
from soma_core.client.pool.queue import CallQueue
from soma_core.client.pool.slot import Slot

__all__ = ["SlotGroup"]

_CLOSING = 4.5  # seconds to wait for workers that are not wanted after all


class SlotGroup:
    """The slots of a pool in an event loop.

    Attributes:
        slots: Those that the pool has now.
    """

    def __init__(self, queue: CallQueue, blueprint: Blueprint, recycle_after: int | None) -> None:
        self.slots: tuple[Slot, ...] = ()
        self._queue, self._blueprint = queue, blueprint
        self._recycle_after = recycle_after
        self._numbers = count(1)
        self._leaving: tuple[Slot, ...] = ()
        self._resizing = asyncio.Lock()

    async def resize(self, n: int) -> None:
        """Have so many slots, once their workers are started; those too many end after their call.

        Raises:
            Exception: A worker cannot be started; then the slots are those of before.
        """
        async with self._resizing:
            self._queue.check_open()
            more = n - len(self.slots)
            self._queue.resize(n)
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
            self.slots = before
            self._queue.resize(len(before))
            self._leaving += tuple(new)
            await _end(new, Deadline.after(_CLOSING))
            for start in starts:
                if start.done():
                    start.exception()  # one of them is raised, and that is enough
            raise

    def _slot(self, number: int, among: int) -> Slot:
        """A new slot; the first workers of those made together are not recycled together."""
        life = self._recycle_after
        first = None if life is None else -(-life * number // among)
        quotas = chain([first], repeat(life))
        number = next(self._numbers)
        return Slot(self._queue, self._blueprint, quotas, self._has_workers, number)

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
            self._queue.check_open()
            for slot in self.slots:
                await slot.renew(next(self._numbers))

    async def close(self, deadline: Deadline) -> None:
        """End all workers and the calls that they run; wait for that, but not beyond a deadline."""
        await _end([*self.slots, *self._leaving], deadline)

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


async def _end(slots: Sequence[Slot], deadline: Deadline) -> None:
    await asyncio.gather(*(slot.close() for slot in slots))
    await _ended(slots, deadline)


async def _ended(slots: Sequence[Slot], deadline: Deadline) -> bool:
    tasks = [slot.task for slot in slots]
    if not tasks:
        return True
    _, pending = await asyncio.wait(tasks, timeout=deadline.left())
    return not pending
