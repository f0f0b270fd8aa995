"""Dispatcher: gives calls to the workers of a pool, keeps them equal, and ends them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from soma_core.channel.deadline import Deadline
from soma_core.client.arguments import check_seconds
from soma_core.client.pool.batching import Batching
from soma_core.client.pool.blueprint import Blueprint
from soma_core.client.pool.call import Call, CallFuture
from soma_core.client.pool.group import SlotGroup
from soma_core.client.pool.queue import CallQueue
from soma_core.client.pool.results import wait_for_result
from soma_core.client.results import NodeState
from soma_core.client.timeouts import DEFAULT, Timeout
from soma_core.client.worker import Worker
from soma_core.errors import ChannelClosed, TransportError

__all__ = ["Dispatcher"]

T = TypeVar("T")

_CLOSING = 4.5  # seconds that close() waits for the threads; the workers are ended before that


class Dispatcher:
    """The queue and the workers of a pool, in the process that made it.

    Args:
        blueprint: How the workers are made, and what they hold.
        n: How many there are.
        recycle_after: How many calls each of them does; None for any number.
        max_queue: How many calls may wait beyond those that run; None for any number.
        batching: How calls are joined; None if they are not.

    Attributes:
        queue: The calls that wait.
        group: The workers.

    Raises:
        Exception: Whatever ``soma.connect`` raises; then no worker is left.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        n: int,
        *,
        recycle_after: int | None,
        max_queue: int | None,
        batching: Batching | None,
    ) -> None:
        self._blueprint, self._batching = blueprint, batching
        self._owner = os.getpid()
        self._changing = threading.Lock()
        self.queue = CallQueue(n, max_queue, batching)
        self.group = SlotGroup(self.queue, blueprint, recycle_after)
        try:
            self.group.resize(n)
            if batching is not None:
                batching.check(blueprint.metas)
        except BaseException:
            self.close()
            raise

    def forward(
        self,
        node_id: str | Sequence[str],
        x: Any,
        state: Any,
        timeout: Timeout,
        deadline: float | None = None,
        priority: int = 0,
    ) -> Call:
        """A call that runs a node, or a chain of nodes; for :meth:`put`."""
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise TypeError(f"priority is a whole number, got {priority!r}")
        seconds = self._blueprint.timeout if timeout is DEFAULT else timeout
        check_seconds("timeout", seconds)
        check_seconds("deadline", deadline)
        end = Deadline.after(deadline)

        def run(worker: Worker) -> Any:
            left = end.within(seconds).left()
            if isinstance(node_id, str):
                return worker.forward(node_id, x, state, timeout=left)
            return worker.composite_forward(node_id, x, state, timeout=left)

        node_ids = (node_id,) if isinstance(node_id, str) else tuple(node_id)
        joinable = None
        if self._batching is not None and state is None:
            joinable = self._batching.joinable(node_ids, x, seconds, self._blueprint.metas)
        label = " > ".join(node_ids)
        return Call(run, label=label, priority=priority, deadline=end, joinable=joinable)

    def put(self, call: Call, *, limited: bool = False, wait: bool = False) -> CallFuture:
        """Submit a call, as :meth:`CallQueue.put`."""
        self.check_owner()
        self.queue.put(call, limited=limited, wait=wait)
        return call.future

    def ask(self, run: Callable[[Worker], T], **details: Any) -> T:
        """Submit a call and wait for its result; the details are arguments of :class:`Call`."""
        result: T = wait_for_result(self.put(Call(run, **details)))
        return result

    def change(
        self,
        run: Callable[[Worker], T],
        commit: Callable[[T], int],
        *,
        replace_on_error: bool = False,
    ) -> T:
        """Change one worker; if that succeeds, the others follow before their next call."""
        self.check_owner()
        with self._changing:
            return self.ask(run, commit=commit, replace_on_error=replace_on_error)

    def train(
        self,
        train: Callable[[Worker], T],
        node_ids: Sequence[str],
        timeout: Timeout,
        *,
        full: bool = True,
    ) -> T:
        """Train nodes in one worker, and give every worker what they learned.

        Args:
            train: Trains them.
            node_ids: The nodes.
            timeout: Seconds to fetch the state of each.
            full: Whether optimizers and random numbers go along.
        """
        blueprint = self._blueprint

        def run(worker: Worker) -> tuple[T, dict[str, NodeState]]:
            result = train(worker)
            states = {
                node_id: worker.get_state(node_id, full=full, timeout=timeout)
                for node_id in node_ids
            }
            return result, states

        result, _ = self.change(
            run, lambda trained: blueprint.set_states(trained[1]), replace_on_error=True
        )
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
        """Take no more calls, finish those that were submitted, and end the workers.

        Args:
            wait: Whether to wait for that.
            cancel_futures: Whether to cancel the calls that no worker has taken.
            timeout: Seconds after which all is closed; None for never.
        """
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
