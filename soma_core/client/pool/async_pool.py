"""AsyncWorkerPool: the same filters in several workers, for the tasks of an event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Sequence,
)
from contextlib import aclosing, nullcontext
from functools import wraps
from typing import Any, Concatenate, NoReturn, ParamSpec, Self, TypeVar

from soma_core.channel.deadline import Deadline
from soma_core.client.aio.streams import each, stream
from soma_core.client.aio.threads import running_loop
from soma_core.client.arguments import DEFAULT, Meta, Timeout, check_seconds
from soma_core.client.chunks import StreamPlan
from soma_core.client.pool.async_future import AsyncCallFuture
from soma_core.client.pool.call import PoolCall
from soma_core.client.pool.group import SlotGroup
from soma_core.client.pool.plan import PoolPlan, plan_pool, whole
from soma_core.client.pool.stats import PoolStats
from soma_core.client.pool.verbs import PoolRequest, PoolVerbs
from soma_core.client.results import WorkerStatus
from soma_core.client.signatures import init_takes_arguments_of, telling, tells_what_it_takes
from soma_core.errors import TransportError

P = ParamSpec("P")
T = TypeVar("T")


def _awaited(
    verb: Callable[Concatenate[PoolVerbs, P], PoolRequest[T]],
) -> Callable[Concatenate[AsyncWorkerPool, P], Coroutine[Any, Any, T]]:
    """The method of an AsyncWorkerPool for a verb: it awaits that a worker has done it."""
    request = telling(f"AsyncWorkerPool.{verb.__name__}", verb)

    @wraps(verb)
    async def method(self: AsyncWorkerPool, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._perform(request(self._verbs, *args, **kwargs))

    return method


def _submitted(
    verb: Callable[Concatenate[PoolVerbs, P], PoolCall],
) -> Callable[Concatenate[AsyncWorkerPool, P], Coroutine[Any, Any, Any]]:
    """The method of an AsyncWorkerPool for a verb that is one call: it submits and awaits it."""
    make = telling(f"AsyncWorkerPool.{verb.__name__}", verb)

    @wraps(verb)
    async def method(self: AsyncWorkerPool, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        return await (await self._submit(make(self._verbs, *args, **kwargs)))

    return method


class AsyncWorkerPool:
    """The same filters in ``n`` workers, for the tasks of one event loop.

    ``async with soma.AsyncWorkerPool(…) as pool:`` starts the workers, and closes the pool at the
    end of the block; ``pool = await soma.AsyncWorkerPool(…)`` leaves that to you. The arguments and
    methods are those of :class:`~soma_core.WorkerPool`, awaited; ``progress`` and ``on_epoch`` are
    called in the loop.

    A call whose task is cancelled, by hand or by ``asyncio.timeout`` or a ``TaskGroup``, is
    withdrawn if it waits, and interrupted if a worker runs it. No thread runs for a call.

    Raises:
        ValueError, TypeError, PluginError: At once, as :class:`~soma_core.WorkerPool`.
        SomaError: When it is awaited: a worker did not start; then none is left.
    """

    @init_takes_arguments_of(plan_pool)
    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._plan: PoolPlan = plan_pool(*arguments, **options)
        self._verbs = PoolVerbs(self._plan.blueprint, self._plan.batching)
        self._running: _Running | None = None

    predict = _awaited(PoolVerbs.predict)
    predict_proba = _awaited(PoolVerbs.predict_proba)
    transform = _awaited(PoolVerbs.transform)
    score = _awaited(PoolVerbs.score)
    call_method = _awaited(PoolVerbs.call_method)
    fit = _awaited(PoolVerbs.fit)
    partial_fit = _awaited(PoolVerbs.partial_fit)
    composite_fit = _awaited(PoolVerbs.composite_fit)
    batched_fit = _awaited(PoolVerbs.batched_fit)
    compute_gradients = _awaited(PoolVerbs.compute_gradients)
    call = _awaited(PoolVerbs.call)
    list = _awaited(PoolVerbs.list)
    ping = _awaited(PoolVerbs.ping)
    get_state = _awaited(PoolVerbs.get_state)
    set_state = _awaited(PoolVerbs.set_state)
    save_checkpoint = _awaited(PoolVerbs.save_checkpoint)
    load_checkpoint = _awaited(PoolVerbs.load_checkpoint)
    load = _awaited(PoolVerbs.load)
    unload = _awaited(PoolVerbs.unload)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an AsyncWorkerPool belongs to the event loop that started it, and is not pickled; "
            "make one in the other process"
        )

    def __await__(self) -> Generator[Any, Any, Self]:
        return self._start().__await__()

    async def _start(self) -> Self:
        if self._running is not None:
            raise RuntimeError("this AsyncWorkerPool is started already; make another one")
        self._running = _Running(self._plan)
        await self._running.group.start()
        return self

    async def __aenter__(self) -> Self:
        return await self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def __len__(self) -> int:
        return 0 if self._running is None else len(self._running.group.slots)

    def __repr__(self) -> str:
        state = "not started" if self._running is None else self._running.group.state
        return self._plan.describe("AsyncWorkerPool", len(self), state)

    @property
    def node_ids(self) -> _Texts:
        """The ids of the nodes that every worker has."""
        return self._plan.blueprint.node_ids

    def status(self) -> _Statuses:
        """What is known of each worker without asking it; one that is being replaced is absent."""
        return self._started().group.status()

    def stats(self) -> PoolStats:
        """What the pool does now, what it has done so far, and how long that took."""
        return self._started().queue.stats()

    @tells_what_it_takes
    async def submit(
        self,
        node_id: str | Sequence[str],
        x: Any,
        *,
        state: Any = None,
        timeout: Timeout = DEFAULT,
        deadline: float | None = None,
        priority: int = 0,
        meta: Meta = None,
    ) -> AsyncCallFuture:
        """Run one node, or a chain of nodes, in whichever worker is free first.

        The arguments and errors are those of :meth:`WorkerPool.submit`. It waits only for room in
        the queue, with ``when_full="wait"``.

        Returns:
            A future, to be awaited; its ``cancel`` withdraws a call that waits, and interrupts one
            that runs.
        """
        return await self._submit(
            self._verbs.forward(
                node_id, x, state, timeout=timeout, deadline=deadline, priority=priority, meta=meta
            )
        )

    async def _submit(self, call: PoolCall) -> AsyncCallFuture:
        return await self._here().put_in_turn(call, wait=self._plan.waits_for_room)

    forward = _submitted(PoolVerbs.forward)
    composite_forward = _submitted(PoolVerbs.composite_forward)

    @tells_what_it_takes
    def map(
        self,
        node_id: str | Sequence[str],
        xs: Iterable[Any] | AsyncIterable[Any],
        *,
        ordered: bool = True,
        ahead: int = 2,
        state: Any = None,
        timeout: Timeout = DEFAULT,
        priority: int = 0,
        meta: Meta = None,
    ) -> AsyncGenerator[Any, None]:
        """Run one node, or a chain of nodes, on each of many inputs: ``async for``.

        The arguments are those of :meth:`WorkerPool.map`; the inputs may also come from an
        asynchronous iterable. When the iterator ends early, calls that no worker has taken are
        cancelled; when its task is cancelled, those that run too.
        """
        self._here().queue.check_open()
        whole("ahead", ahead)
        make = self._verbs.forward_each(
            node_id, state, timeout=timeout, priority=priority, meta=meta
        )
        return self._map(make, xs, ahead * len(self), ordered=ordered)

    async def _map(
        self,
        make: Callable[[Any], PoolCall],
        xs: Iterable[Any] | AsyncIterable[Any],
        window: int,
        *,
        ordered: bool,
    ) -> AsyncGenerator[Any, None]:
        running = self._here()
        pending: list[AsyncCallFuture] = []
        end: Exception | None = None
        try:
            async with aclosing(each(xs)) as source:
                while True:
                    while end is None and len(pending) < window:
                        try:
                            pending.append(
                                await running.put_in_turn(make(await anext(source)), wait=True)
                            )
                        except Exception as error:  # StopAsyncIteration, or what the inputs raised
                            end = error
                    if not pending:
                        break
                    yield await _next_result(pending, ordered=ordered)
            if end is not None and not isinstance(end, StopAsyncIteration):
                raise end
        except asyncio.CancelledError:
            _withdraw(pending, interrupt=True)
            raise
        finally:
            _withdraw(pending, interrupt=False)
            pending.clear()
            end = None  # or it and this frame would hold each other

    def stream(
        self,
        node_ids: Sequence[str],
        chunks: Iterable[Any] | AsyncIterable[Any],
        *,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> AsyncGenerator[Any, None]:
        """Run chunks through a chain of nodes, as :meth:`WorkerPool.stream`: ``async for``."""
        plan = StreamPlan.of(node_ids, self._plan.blueprint.metas)

        async def run(segment: Sequence[str], x: Any) -> Any:
            learns = plan.learns(segment)
            request = self._verbs.run_segment(segment, x, learns=learns, meta=meta, timeout=timeout)
            return await self._perform(request)

        return stream(plan, chunks, run)

    async def resize(self, n: int) -> None:
        """Have so many workers, as :meth:`WorkerPool.resize`."""
        whole("n", n)
        running = self._here()
        running.queue.check_open()
        await running.group.resize(n)

    async def refresh(self) -> None:
        """Replace the workers by new ones, one after the other, as :meth:`WorkerPool.refresh`."""
        running = self._here()
        running.queue.check_open()
        await running.group.refresh()

    async def close(self) -> None:
        """End the workers now, within 5 s.

        Calls that run and calls that wait raise ChannelClosed. A second close does nothing, nor
        does one in a forked child.

        Raises:
            RuntimeError: It belongs to another event loop, which is not closed yet.
        """
        if self._running is not None:
            await self._running.close()

    async def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> None:
        """Take no more calls, and end the workers when those that were submitted are done.

        The arguments are those of :meth:`WorkerPool.shutdown`.
        """
        check_seconds("timeout", timeout)
        running = self._here()
        running.group.shut_down(cancel_futures=cancel_futures)
        if wait:
            await self._drain(running, timeout)
        elif timeout is not None:
            running.draining = asyncio.create_task(self._drain(running, timeout))

    async def _drain(self, running: _Running, timeout: float | None) -> None:
        if not await running.group.join(Deadline.after(timeout)):
            await self.close()

    async def _perform(self, request: PoolRequest[T]) -> T:
        """Do what a method of the pool asks; changes are made one after the other."""
        running = self._here()
        async with nullcontext() if request.commit is None else running.changing:
            result: T = await running.put(request.call(self._plan.blueprint))
        return result

    def _here(self) -> _Running:
        """The pool in its loop.

        Raises:
            TransportError, RuntimeError: It is not started, or not of this process or loop.
        """
        running = self._started()
        running.check_here()
        return running

    def _started(self) -> _Running:
        """The pool, wherever this is.

        Raises:
            RuntimeError: It is not started.
        """
        if self._running is None:
            raise RuntimeError(
                "this AsyncWorkerPool is not started: use it as `async with soma.AsyncWorkerPool"
                "(…) as pool:`, or await it first"
            )
        return self._running


class _Running:
    """The queue and the workers of a pool that is started, in the loop that runs."""

    def __init__(self, plan: PoolPlan) -> None:
        self._loop = running_loop()
        self._owner = os.getpid()
        self.group = SlotGroup(plan)
        self.queue = self.group.queue
        self.changing = asyncio.Lock()
        self.draining: asyncio.Task[None] | None = None  # which nothing else would hold

    def check_here(self) -> None:
        """Make sure that this is the loop of the pool, in the process of that.

        Raises:
            TransportError: This process was forked from that of the pool.
            RuntimeError: It is another loop, or none runs.
        """
        if os.getpid() != self._owner:
            raise TransportError(
                "this AsyncWorkerPool belongs to the process that this one was forked from; make "
                "a pool here"
            )
        try:
            is_here = asyncio.get_running_loop() is self._loop
        except RuntimeError:  # none runs
            is_here = False
        if not is_here:
            raise RuntimeError(
                "this AsyncWorkerPool belongs to another event loop, the one that started it; make "
                "one in this loop, or use a WorkerPool, which any thread may call"
            )

    async def put_in_turn(self, call: PoolCall, *, wait: bool) -> AsyncCallFuture:
        """Submit a call once there is room for it; without ``wait`` there must be some."""
        await self.queue.make_room(call, wait=wait)
        return self.put(call)

    def put(self, call: PoolCall) -> AsyncCallFuture:
        """Submit a call."""
        call.future = future = AsyncCallFuture(call, self._loop)
        self.queue.put(call)
        return future

    async def close(self) -> None:
        """End the workers; does nothing in a forked child."""
        if os.getpid() != self._owner:
            return
        if self._loop.is_closed():
            await self.group.close_workers()
            return
        self.check_here()
        await self.group.close()


async def _next_result(pending: list[AsyncCallFuture], *, ordered: bool) -> Any:
    """Wait until one of them has ended, or the first one; take it away, and return its result."""
    looked_at = pending[:1] if ordered else pending
    await asyncio.wait(looked_at, return_when=asyncio.FIRST_COMPLETED)
    ended = next(future for future in looked_at if future.done())
    pending.remove(ended)
    try:
        return ended.result()
    finally:
        del ended, looked_at  # an error would lead to this frame


def _withdraw(futures: Iterable[AsyncCallFuture], *, interrupt: bool) -> None:
    """Nobody waits for them any more: cancel those that wait, or all."""
    for future in futures:
        future.ignore()
        future.cancel(interrupt=interrupt)


_Texts = list[str]  # within AsyncWorkerPool, list is a method
_Statuses = list[WorkerStatus]
