"""Executor: functions run in workers of soma, behind the interface of the standard library."""

from __future__ import annotations

import atexit
import concurrent.futures
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any, NoReturn, TypeVar

from soma_core.client.arguments import check_seconds
from soma_core.client.pool.blocking.background import BackgroundPool
from soma_core.client.pool.blocking.functions import Functions, call_each, name_of, outcome
from soma_core.client.pool.call import SHORT, PoolCall
from soma_core.client.pool.plan import plan_pool, whole
from soma_core.client.pool.stats import PoolStats
from soma_core.client.steps import Steps
from soma_core.client.verbs.verbs import Verbs
from soma_core.errors import ChannelClosed

_NODE = "functions"
_log = logging.getLogger("soma.pool")

T = TypeVar("T")


class Executor(concurrent.futures.Executor):
    """A :class:`concurrent.futures.Executor` whose functions run in workers of soma.

    It goes wherever an executor is taken, such as ``loop.run_in_executor``. Functions and their
    arguments are sent as soma sends data: what is defined in a script or a notebook works, and
    arrays go through shared memory. Beyond what a ``ProcessPoolExecutor`` does:

    - a worker that dies costs the call that it ran, which raises :class:`~soma_core.WorkerDied`,
      and is replaced;
    - ``timeout`` ends calls that take too long;
    - ``Future.cancel`` interrupts a function that runs.

    Args:
        max_workers: How many workers; None for as many as there are cores for this process.
        transport: The name of an installed transport.
        initializer: Called in each worker before its first function.
        initargs: The arguments of that.
        timeout: Seconds that each function may run; None for ever.
        options: As for :class:`~soma_core.WorkerPool`: ``interrupt_grace``, ``recycle_after``,
            ``max_queue``, ``when_full``, and the options of the transport.

    Raises:
        ValueError, TypeError: An argument is not valid.
        Exception: Whatever :func:`~soma_core.connect` raises, or the initializer; then no worker
            is left.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        transport: str = "stdio",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer is a function, got {initializer!r}")
        check_seconds("timeout", timeout)
        if max_workers is not None:
            whole("max_workers", max_workers)
        filters = {_NODE: Functions(initializer, tuple(initargs))}
        plan = plan_pool(transport, max_workers, filters=filters, **options)
        self._timeout, self._blueprint = timeout, plan.blueprint
        self._max_workers = plan.n  # which dask asks any executor for
        self._pool = pool = BackgroundPool(plan)
        weakref.finalize(self, pool.abandon).atexit = False
        self._at_exit = partial(_report_at_exit, weakref.ref(pool))
        atexit.register(self._at_exit)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an Executor belongs to the process that made it, and is not pickled; make one in the "
            "other process"
        )

    def submit(
        self, fn: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[T]:
        """Have a function called in a worker.

        Returns:
            A future. It raises what the function raised, with the traceback from the worker as
            its cause. Its ``cancel`` withdraws a call that waits, and interrupts one that runs.
            Its callbacks are called in the thread of the executor, and must not wait for calls.

        Raises:
            RuntimeError: The executor was shut down.
            QueueFull: As many calls wait as may (``max_queue``).
            StartFailed: No worker is left, and none can be started.
            TransportError: This process was forked from that of the executor.
        """
        if not callable(fn):
            raise TypeError(f"submit takes a function and its arguments, got {fn!r}")
        timeout = self._timeout

        def run(verbs: Verbs) -> Steps[Any]:
            return verbs.forward(_NODE, [fn, [*args], kwargs], timeout=timeout)

        call = PoolCall(
            run,
            context=self._blueprint.context(),
            label=name_of(fn),
            ahead=timeout is None or timeout > SHORT,
            unwrap=outcome,
        )
        try:
            return self._pool.put(call)
        except ChannelClosed as error:
            raise RuntimeError("cannot schedule new futures after shutdown") from error

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **options: Any,
    ) -> Iterator[T]:
        """Call a function with the items of some iterables, as the built-in ``map`` does.

        Args:
            fn: The function.
            iterables: Its arguments, one iterable for each.
            timeout: Seconds from now on in which each result must be there; None for ever.
            chunksize: How many calls a worker is given at once: a short function takes many times
                longer to send than to run. They share the executor's ``timeout``, and the first
                that raises ends its chunk.
            options: Those that newer versions of Python add, such as ``buffersize`` of 3.14.

        Returns:
            The results in the order of the items.

        Raises:
            ValueError: ``chunksize`` is not a whole number from 1 on.
            RuntimeError: The executor was shut down.
            TimeoutError: From the iterator: a result was not there in time.
        """
        whole("chunksize", chunksize)
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout, **options)
        arguments = zip(*iterables, strict=False)
        chunks = iter(lambda: [*map(list, zip(*islice(arguments, chunksize), strict=True))], [])
        results = super().map(partial(call_each, fn), chunks, timeout=timeout, **options)
        return chain.from_iterable(results)

    def stats(self) -> PoolStats:
        """What it does now, what it has done so far, and how long that took.

        Calls are counted by the ``__qualname__`` of their function, under ``nodes``.
        """
        return self._pool.stats()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the workers when those that were submitted are done.

        Without ``wait`` that happens in the background. If the program ends before, the log says
        how many calls were not done.

        Args:
            wait: Whether to wait for that.
            cancel_futures: Whether to cancel the calls that no worker has taken.
        """
        self._pool.shutdown(wait=wait, cancel_futures=cancel_futures)
        if wait:
            atexit.unregister(self._at_exit)


def _report_at_exit(reference: weakref.ref[BackgroundPool]) -> None:
    pool = reference()
    stats = None if pool is None else pool.stats()
    if stats is not None and stats.queued + stats.running:
        left = stats.queued + stats.running
        _log.warning("the program ends, and %d calls of a soma.Executor were not done", left)
