"""Lease: a worker of a loop, lent to the thread that asks for something, which does it by itself.

So what the user's code is called for (``progress``, ``on_epoch``, chunks of data) is called in the
user's thread, and holds up no other call. Ctrl-C ends what that thread does, as over a Worker.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from soma_core.client.pool.blocking.call_future import SLICE
from soma_core.client.pool.verbs import PoolRequest
from soma_core.client.worker import Worker

T = TypeVar("T")


class Lease(Generic[T]):
    """One worker for one request, or several after one another if one dies before it was begun.

    Args:
        request: What is done with it.
        loop: The loop that lends it.
    """

    def __init__(self, request: PoolRequest[T], loop: asyncio.AbstractEventLoop) -> None:
        self._request, self._loop = request, loop
        self._lent: SimpleQueue[Worker | None] = SimpleQueue()
        self._outcome: asyncio.Future[tuple[Any, Exception | None]] | None = None

    async def lend(self, worker: Worker) -> tuple[Any, Exception | None]:
        """In the loop: have the other thread use a worker, and wait for the result or the error."""
        self._outcome = self._loop.create_future()
        self._lent.put(worker)
        try:
            return await self._outcome
        finally:
            self._outcome = None

    def use(self, future: Future[T]) -> T:
        """In the other thread: do what is asked with the worker that is lent.

        Raises:
            BaseException: What the call raised, or Ctrl-C.
        """
        future.add_done_callback(lambda _: self._lent.put(None))
        try:
            while (worker := self._next()) is not None:
                self._use(worker)
            return future.result()
        finally:
            del future  # its error leads to this frame

    def _next(self) -> Worker | None:
        """The worker that is lent next; None once the call has ended."""
        while True:
            try:
                return self._lent.get(timeout=SLICE)
            except Empty:
                continue

    def _use(self, worker: Worker) -> None:
        outcome = self._outcome
        assert outcome is not None
        try:
            done: tuple[Any, Exception | None] = worker.run(self._request.run(worker.verbs)), None
        except Exception as error:
            done = None, error
        self._loop.call_soon_threadsafe(_set, outcome, done)
        del done, outcome  # the error leads to this frame


def _set(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)
