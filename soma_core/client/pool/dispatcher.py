"""Dispatcher: gives calls to the workers of a pool, keeps them equal, and ends them."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from typing import TypeVar

from soma_core.channel.deadline import Deadline
from soma_core.client.pool.call import CallFuture, PoolCall
from soma_core.client.pool.group import SlotGroup
from soma_core.client.pool.plan import PoolPlan
from soma_core.client.pool.queue import CallQueue
from soma_core.client.pool.results import wait_for_result
from soma_core.client.pool.verbs import Request
from soma_core.client.turn import Turn
from soma_core.errors import ChannelClosed, TransportError

__all__ = ["Dispatcher"]

T = TypeVar("T")

_CLOSING = 4.5  # seconds that close() waits for the threads; the workers are ended before that


class Dispatcher:
    """The queue and the workers of a pool, in the process that made it.

    Attributes:
        queue: The calls that wait.
        group: The workers.

    Raises:
        Exception: Whatever ``soma.connect`` raises; then no worker is left.
    """

    def __init__(self, plan: PoolPlan) -> None:
        self._owner = os.getpid()
        self._blueprint = plan.blueprint
        self._changing = Turn("a change of this pool")
        self.queue = CallQueue(plan.n, plan.max_queue, plan.batching)
        self.group = SlotGroup(self.queue, plan.blueprint, plan.recycle_after)
        try:
            self.group.resize(plan.n)
            plan.check_nodes()
        except BaseException:
            self.close()
            raise

    def put(self, call: PoolCall, *, limited: bool = False, wait: bool = False) -> CallFuture:
        """Submit a call, as :meth:`CallQueue.put`."""
        self.check_owner()
        call.future = future = CallFuture(call)
        self.queue.put(call, limited=limited, wait=wait)
        return future

    def perform(self, request: Request[T]) -> T:
        """Do what a method of the pool asks, and wait for it.

        Of a change, the other workers are told before their next call.
        """
        call = request.call(self._blueprint)
        self.check_owner()
        with nullcontext() if request.commit is None else self._changing:
            result: T = wait_for_result(self.put(call))
        return result

    def close(self) -> None:
        """End the workers and all calls, within 5 s; does nothing in a forked child."""
        if os.getpid() != self._owner:
            return
        deadline = Deadline.after(_CLOSING)
        self.queue.end(lambda: ChannelClosed("the pool was closed"))
        self.group.close(deadline)
        self.queue.join(deadline)

    def shutdown(self, *, wait: bool, cancel_futures: bool, timeout: float | None) -> None:
        """Take no more calls, and end the workers, as :meth:`WorkerPool.shutdown`."""
        self.check_owner()
        self.queue.close(lambda: ChannelClosed("the pool was shut down"))
        if cancel_futures:
            self.queue.cancel()
        deadline = Deadline.after(timeout)
        if wait:
            self._drain(deadline)
        elif timeout is not None:
            threading.Thread(target=self._drain, args=[deadline], daemon=True).start()

    def abandon(self) -> None:
        """The pool is garbage: its workers finish what was submitted, and end."""
        if os.getpid() == self._owner:
            self.queue.close(lambda: ChannelClosed("the pool is gone"))

    def check_usable(self) -> None:
        """Raise what :meth:`put` would."""
        self.check_owner()
        self.queue.check_open()

    def check_owner(self) -> None:
        """Make sure that this is not a process that was forked from the pool's.

        Raises:
            TransportError: It is.
        """
        if os.getpid() != self._owner:
            raise TransportError(
                "this WorkerPool belongs to the process that this one was forked from; make a "
                "pool here"
            )

    def _drain(self, deadline: Deadline) -> None:
        if self.group.join(deadline):
            self.queue.join(deadline)
        elif deadline.over():
            self.close()
