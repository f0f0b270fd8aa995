"""AsyncCallFuture: the future of a call of a pool in an event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from soma_core.client.pool.call import Call

__all__ = ["AsyncCallFuture"]


class AsyncCallFuture(asyncio.Future[Any]):
    """The future of a call: to cancel it withdraws the call, or interrupts the worker that runs it.

    A task that awaits it, and is cancelled, cancels it.
    """

    def __init__(self, call: Call, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._call: Call | None = call

    def running(self) -> bool:
        """Whether a worker runs the call."""
        return self._call is not None and self._call.running

    def cancel(self, msg: Any | None = None, *, interrupt: bool = True) -> bool:
        """Withdraw a call that waits; interrupt one that runs. Its worker stays usable.

        Args:
            msg: As for :meth:`asyncio.Future.cancel`.
            interrupt: Whether a call that runs is cancelled too.

        Returns:
            Whether the call is cancelled: False if it had ended before.
        """
        call = self._call
        if call is None or not call.cancel(interrupt=interrupt):
            return False
        self._call = None
        return super().cancel(msg)

    def end(self, result: Any, error: BaseException | None) -> None:
        """Set the result or the error."""
        self._call = None  # with it goes the input of the call
        if self.done() or self.get_loop().is_closed():
            return
        if isinstance(error, StopIteration):  # which no future takes
            wrapped = RuntimeError(f"the call raised StopIteration: {error}")
            wrapped.__cause__ = error
            error = wrapped
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(result)
