"""AsyncCallFuture: the future of a call of a pool in an event loop."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from soma_core.client.pool.call import PoolCall


class AsyncCallFuture(asyncio.Future[Any]):
    """The future of a call: to cancel it withdraws the call, or interrupts the worker that runs it.

    A task that awaits it, and is cancelled, cancels it.
    """

    def __init__(self, call: PoolCall, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._call: PoolCall | None = call

    def running(self) -> bool:
        """Whether a worker runs the call."""
        return self._call is not None and self._call.running

    def cancel(self, msg: Any | None = None, *, interrupt: bool = True) -> bool:
        """Withdraw a call that waits; interrupt one that runs. See :meth:`CallFuture.cancel`."""
        call, loop = self._call, self.get_loop()
        if call is None or self.done() or (call.running and not interrupt):
            return False
        self._call = None
        if loop.is_closed():
            call.cancel(interrupt=interrupt)
        else:
            # Ctrl-C under asyncio.run cancels from a signal handler, in the midst of whatever runs
            # here, the pool's own steps among it. The loop sees to the call between two steps.
            loop.call_soon_threadsafe(partial(call.cancel, interrupt=interrupt))
        return super().cancel(msg)

    def ignore(self) -> None:
        """Nobody will ask what comes of it: if that is an error, the loop does not complain."""
        self.add_done_callback(_look_at)

    def end(self, result: Any, error: BaseException | None) -> None:
        """Set the result or the error."""
        self._call = None  # with it goes the input of the call
        if self.done() or self.get_loop().is_closed():
            return
        if isinstance(error, StopIteration):  # which no future takes
            wrapped = RuntimeError(f"the call raised StopIteration: {error}")
            wrapped.__cause__ = error
            error = wrapped
        try:
            if error is None:
                self.set_result(result)
            else:
                self.set_exception(error)
        except asyncio.InvalidStateError:  # Ctrl-C cancelled it just now
            pass


def _look_at(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
