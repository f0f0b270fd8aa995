"""SlotGroup: the slots of a pool, which are started, made more or fewer, and ended together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION
from concurrent.futures import wait as wait_for
from itertools import chain, count, repeat

from soma_core.channel.deadline import Deadline
from soma_core.client.pool.blueprint import Blueprint
from soma_core.client.pool.queue import CallQueue
from soma_core.client.pool.slot import Slot
from soma_core.client.turn import Turn

__all__ = ["SlotGroup"]

_CLOSING = 4.5  # seconds to wait for workers that are not wanted after all


class SlotGroup:
    """The slots of a pool. It knows nothing of the pool, which may be garbage while they work.

    Attributes:
        slots: Those that the pool has now.
    """

    def __init__(self, queue: CallQueue, blueprint: Blueprint, recycle_after: int | None) -> None:
        self.slots: tuple[Slot, ...] = ()
        self._queue, self._blueprint = queue, blueprint
        self._recycle_after = recycle_after
        self._numbers = count(1)
        self._leaving: tuple[Slot, ...] = ()
        self._resizing = Turn("a change of this pool's size")

    def resize(self, n: int) -> None:
        """Have so many slots, once their workers are started; those too many end after their call.

        Raises:
            Exception: A worker cannot be started; then the slots are those of before.
        """
        with self._resizing:
            more = n - len(self.slots)
            self._queue.resize(n)
            if more > 0:
                self._add(more)
            elif more < 0:
                idle_first = sorted(self.slots, key=lambda slot: slot.busy)
                self._remove(idle_first[:-more])

    def _add(self, n: int) -> None:
        before = self.slots
        new = [self._slot(number, n) for number in range(1, n + 1)]
        self.slots = (*before, *new)
        try:
            for start in wait_for([slot.started for slot in new], return_when=FIRST_EXCEPTION).done:
                start.result()
        except BaseException:
            self.slots = before
            self._queue.resize(len(before))
            self._leaving += tuple(new)
            _end(new, Deadline.after(_CLOSING))
            raise

    def _slot(self, number: int, among: int) -> Slot:
        """A new slot; the first workers of those made together are not recycled together."""
        life = self._recycle_after
        first = None if life is None else -(-life * number // among)
        quotas = chain([first], repeat(life))
        return Slot(self._queue, self._blueprint, quotas, self._has_workers, next(self._numbers))

    def _has_workers(self) -> bool:
        return any(slot.worker is not None for slot in self.slots)

    def _remove(self, slots: Sequence[Slot]) -> None:
        self.slots = tuple(slot for slot in self.slots if slot not in slots)
        self._leaving = (*(slot for slot in self._leaving if not slot.ended), *slots)
        for slot in slots:
            slot.retire()

    def refresh(self) -> None:
        """Replace the workers, one after the other.

        Raises:
            Exception: Another worker did not start; those that are not replaced yet stay.
        """
        with self._resizing:
            for slot in self.slots:
                slot.renew().result()

    def close(self, deadline: Deadline) -> None:
        """End all workers and the calls that they run; wait for that, but not beyond a deadline."""
        _end([*self.slots, *self._leaving], deadline)

    def join(self, deadline: Deadline) -> bool:
        """Wait until all have ended by themselves; False if they have not by the deadline."""
        slots = [*self.slots, *self._leaving]
        return all(slot.join(deadline.left()) for slot in slots)


def _end(slots: Sequence[Slot], deadline: Deadline) -> None:
    threads = [_closing(slot) for slot in slots]
    for thread in filter(None, threads):
        thread.join(deadline.left())
    for slot in slots:
        slot.join(deadline.left())


def _closing(slot: Slot) -> threading.Thread | None:
    """The thread that closes a slot; None if it was closed here, for want of threads."""
    thread = threading.Thread(target=slot.close, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        slot.close()
        return None
    return thread
