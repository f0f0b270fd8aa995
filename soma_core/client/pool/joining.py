"""Joining: how long calls that are to be run together wait for others."""

from __future__ import annotations

from collections.abc import Callable

from soma_core.channel.deadline import Deadline
from soma_core.client.pool.batching import Batching
from soma_core.client.pool.call import PoolCall


class Joining:
    """Calls that are put together under load: those that come are waited for, for a while.

    There is load if all workers are busy and the last batch was large. Then the callers of that
    batch may be about to call again: they are waited for as long as they keep coming.

    Args:
        add: Adds the waiting calls that may run with some; returns the rows that all have.
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
        add: Callable[[list[PoolCall]], int],
        calls: list[PoolCall],
        batching: Batching,
        last_batch: dict[str | None, int],
        *,
        idle: bool,
    ) -> None:
        self._add, self._calls, self._last_batch = add, calls, last_batch
        label, expected = calls[0].label, last_batch.get(calls[0].label, 0)
        self._label, self._expected = label, expected
        self._rows = add(calls)
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
        before, self._rows = self._rows, self._add(self._calls)
        return self._rows > before

    def finish(self) -> None:
        """The batch goes."""
        self._last_batch[self._label] = self._rows
