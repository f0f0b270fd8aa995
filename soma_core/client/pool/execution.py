"""Execution: what a slot does for one call or several, cancelled when nobody wants it any more."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Execution:
    """What a task does for one call or several; when nobody wants it any more, it is cancelled.

    Attributes:
        wanted: How many calls want it.
    """

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task
        self.wanted = 0
        self.is_over = self.is_dropped = False

    def drop(self) -> None:
        """A call wants it no longer."""
        self.wanted -= 1
        if not (self.wanted or self.is_over or self.is_dropped):
            self.is_dropped = True
            self._task.cancel()

    async def settle(self) -> None:
        """Take back a cancellation that came when the task awaited nothing any more.

        Raises:
            CancelledError: Somebody else cancelled it, too: the loop ends.
        """
        if self.is_dropped and self._task.cancelling():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            if not self.was_cancelled_by_drop():
                raise asyncio.CancelledError

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody wants the task to end."""
        return self._task.cancelling() > 0

    def was_cancelled_by_drop(self) -> bool:
        """Whether that alone is why the task is cancelled: then it goes on."""
        return self.is_dropped and self._task.uncancel() == 0
