"""WorkerPool: the same filters in several workers, and calls that whichever is free takes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import wraps
from typing import Any, Concatenate, NoReturn, ParamSpec, Self, TypeVar

from soma_core.client.arguments import DEFAULT, Meta, Timeout, check_seconds
from soma_core.client.chunks import StreamPlan, stream
from soma_core.client.pool.blocking.background import BackgroundPool
from soma_core.client.pool.blocking.call_future import CallFuture, map_results, wait_for_result
from soma_core.client.pool.call import PoolCall
from soma_core.client.pool.plan import plan_pool, whole
from soma_core.client.pool.stats import PoolStats
from soma_core.client.pool.verbs import PoolRequest, PoolVerbs
from soma_core.client.remote_filter import RemoteFilter
from soma_core.client.results import WorkerStatus
from soma_core.client.signatures import init_takes_arguments_of, telling, tells_what_it_takes

P = ParamSpec("P")
T = TypeVar("T")


def _asked(
    verb: Callable[Concatenate[PoolVerbs, P], PoolRequest[T]],
) -> Callable[Concatenate[WorkerPool, P], T]:
    """The method of a WorkerPool for a verb: it waits until a worker has done what is asked."""
    request = telling(f"WorkerPool.{verb.__name__}", verb)

    @wraps(verb)
    def method(self: WorkerPool, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._pool.perform(request(self._verbs, *args, **kwargs))

    return method


def _submitted(
    verb: Callable[Concatenate[PoolVerbs, P], PoolCall],
) -> Callable[Concatenate[WorkerPool, P], Any]:
    """The method of a WorkerPool for a verb that is one call: it submits it, and waits for it."""
    make = telling(f"WorkerPool.{verb.__name__}", verb)

    @wraps(verb)
    def method(self: WorkerPool, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        self._pool.check_may_wait()
        return wait_for_result(self._pool.put(make(self._verbs, *args, **kwargs)))

    return method


class WorkerPool:
    """The same filters in ``n`` workers. Thread-safe.

    Calls wait in one queue, and the next free worker takes the next call, so that a slow one
    holds up nobody; if the last calls of a node were all quick, some are sent ahead, and taken
    back if one of them takes long after all. A call under which its worker dies raises
    :class:`~soma_core.WorkerDied`; the worker is replaced, and all other calls go on. A worker
    that dies while it is idle costs no call.

    What a method changes in one worker, by training, loading or a state, every worker is given
    before its next call: optimizers and random numbers too, so that training goes on as if it ran
    in one. A worker in which training fails is replaced, since it may be half changed.

    One thread of the pool takes all replies. Callbacks of futures are called there: they may submit
    calls, and not wait for any. ``progress``, ``on_epoch`` and chunks of data are called in the
    thread that asks for the training.

    What a caller hands over is read when a worker takes the call: leave it unchanged until then,
    and what is in ``filters`` for as long as the pool lives.

    Args:
        transport: The name of an installed transport.
        n: How many workers; None for as many as there are cores for this process.
        filters: What each of them loads, as for :func:`~soma_core.connect`.
        timeout: Seconds that each call may take once a worker has taken it, unless it names its
            own; None for ever.
        start_timeout: Seconds in which a worker must answer its first message, and load.
        stall_timeout: As for :func:`~soma_core.connect`: a worker that is stuck in a call is
            interrupted, or replaced.
        interrupt_grace: Seconds that a call may take to end once it was interrupted, at its
            deadline or because it was cancelled; after that its worker is ended, and replaced.
        pickle: As for :func:`~soma_core.connect`.
        record: As for :func:`~soma_core.connect`; each worker has a file of its own, such as
            ``calls-1.jsonl`` and ``calls-2.jsonl`` for ``calls.jsonl``.
        recycle_after: After how many calls a worker is replaced by a fresh one; None for never.
            The first ones are replaced sooner, one after the other, so that not all are away at
            once.
        max_queue: How many calls of :meth:`submit` may wait while all workers are busy; None for
            any number.
        when_full: What :meth:`submit` does then: ``"raise"`` QueueFull, or ``"wait"`` for room.
        batching: How calls for the same nodes are joined into one command; None if they are not.
        options: The options of the transport. ``threads``, where the transport has it, is the
            number of cores divided by ``n`` unless it is given; None leaves the workers alone.

    Raises:
        ValueError: A number is too small, or an option is not valid.
        Exception: Whatever :func:`~soma_core.connect` raises; then no worker is left.
    """

    @init_takes_arguments_of(plan_pool)
    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._plan = plan = plan_pool(*arguments, **options)
        self._pool = pool = BackgroundPool(plan)
        self._verbs = PoolVerbs(plan.blueprint, plan.batching)
        # It knows nothing of this object, so that the workers end when nobody has that any more.
        weakref.finalize(self, pool.abandon).atexit = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a WorkerPool belongs to the process that made it, and is not pickled; make one in the "
            "other process"
        )

    def __len__(self) -> int:
        return len(self._pool.group.slots)

    def __repr__(self) -> str:
        return self._plan.describe("WorkerPool", len(self), self._pool.group.state)

    @property
    def node_ids(self) -> _Texts:
        """The ids of the nodes that every worker has."""
        return self._plan.blueprint.node_ids

    def status(self) -> _Statuses:
        """What is known of each worker without asking it; one that is being replaced is absent."""
        return self._pool.group.status()

    def stats(self) -> PoolStats:
        """What the pool does now, what it has done so far, and how long that took."""
        return self._pool.stats()

    @tells_what_it_takes
    def submit(
        self,
        node_id: str | Sequence[str],
        x: Any,
        *,
        state: Any = None,
        timeout: Timeout = DEFAULT,
        deadline: float | None = None,
        priority: int = 0,
        meta: Meta = None,
    ) -> CallFuture:
        """Run one node, or a chain of nodes, in whichever worker is free first.

        Args:
            node_id: The node; or several in order, the output of each being the input of the
                next.
            x: The input.
            state: As for :meth:`Worker.forward`; of a chain, states by node id.
            timeout: Seconds that the call may take once a worker has taken it.
            deadline: Seconds from now in which the call must end, waiting included; None for any
                number.
            priority: A call of a greater priority is taken before those of a smaller one that
                wait; those of one priority are taken in order.
            meta: As for :meth:`Worker.forward`; calls are joined only with those of the same.

        Returns:
            A future; it raises what the call on a Worker would. Its ``cancel`` withdraws a call
            that waits, and interrupts one that runs.

        Raises:
            ChannelClosed: The pool is closed.
            QueueFull: As many calls wait as may.
            DeadlineExceeded: With ``when_full="wait"``: there was no room before the deadline.
            StartFailed: The pool is broken: no worker is left, and none can be started.
        """
        return self._pool.put(
            self._verbs.forward(
                node_id, x, state, timeout=timeout, deadline=deadline, priority=priority, meta=meta
            )
        )

    @tells_what_it_takes
    def map(
        self,
        node_id: str | Sequence[str],
        xs: Iterable[Any],
        *,
        ordered: bool = True,
        ahead: int = 2,
        state: Any = None,
        timeout: Timeout = DEFAULT,
        priority: int = 0,
        meta: Meta = None,
    ) -> Iterator[Any]:
        """Run one node, or a chain of nodes, on each of many inputs, lazily.

        An input for which the call fails raises at its place, and ends the iterator, but not
        the pool. An error of ``xs`` is raised after the results of what came before it. When
        the iterator ends early, calls that no worker has taken are cancelled; Ctrl-C also
        interrupts those that run. A full queue is waited for.

        Args:
            node_id: As for :meth:`submit`.
            xs: The inputs; they may be without end.
            ordered: Whether results come in the order of the inputs, or as they are ready.
            ahead: How many inputs for each worker may be taken before their results are.
            state: As for :meth:`submit`.
            timeout: As for :meth:`submit`, for each input.
            priority: As for :meth:`submit`.
            meta: As for :meth:`submit`, with each input.
        """
        pool = self._pool
        pool.check_usable()
        pool.check_may_wait()
        if not isinstance(xs, Iterable) and not hasattr(xs, "__getitem__"):
            raise TypeError(f"xs are the inputs, one for each call, got {xs!r}; one goes to submit")
        window = whole("ahead", ahead) * len(self)
        calls = map(
            self._verbs.forward_each(node_id, state, timeout=timeout, priority=priority, meta=meta),
            xs,
        )
        return map_results((pool.put(call, wait=True) for call in calls), window, ordered=ordered)

    forward = _submitted(PoolVerbs.forward)
    composite_forward = _submitted(PoolVerbs.composite_forward)
    predict = _asked(PoolVerbs.predict)
    predict_proba = _asked(PoolVerbs.predict_proba)
    transform = _asked(PoolVerbs.transform)
    score = _asked(PoolVerbs.score)
    call_method = _asked(PoolVerbs.call_method)
    fit = _asked(PoolVerbs.fit)
    partial_fit = _asked(PoolVerbs.partial_fit)
    composite_fit = _asked(PoolVerbs.composite_fit)
    batched_fit = _asked(PoolVerbs.batched_fit)
    compute_gradients = _asked(PoolVerbs.compute_gradients)
    call = _asked(PoolVerbs.call)
    list = _asked(PoolVerbs.list)
    ping = _asked(PoolVerbs.ping)
    get_state = _asked(PoolVerbs.get_state)
    set_state = _asked(PoolVerbs.set_state)
    save_checkpoint = _asked(PoolVerbs.save_checkpoint)
    load_checkpoint = _asked(PoolVerbs.load_checkpoint)
    load = _asked(PoolVerbs.load)
    unload = _asked(PoolVerbs.unload)

    def stream(
        self,
        node_ids: Sequence[str],
        chunks: Iterable[Any],
        *,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Generator[Any, None, None]:
        """Run chunks through a chain of nodes, each when its result is asked for.

        As :meth:`Worker.stream`; what nodes learn from a chunk, every worker is given before the
        next one. :meth:`map` runs chunks that do not depend on each other in all workers at once.
        """
        plan = StreamPlan.of(node_ids, self._plan.blueprint.metas)

        def run(segment: Sequence[str], x: Any) -> Any:
            learns = plan.learns(segment)
            request = self._verbs.run_segment(segment, x, learns=learns, meta=meta, timeout=timeout)
            return self._pool.perform(request)

        return stream(plan, chunks, run)

    def filter(self, node_id: str) -> RemoteFilter:
        """A loaded node as a Filter of its own, for code that expects one.

        Raises:
            KeyError: There is no such node.
        """
        meta = self._plan.blueprint.metas.get(node_id)
        if meta is None:
            loaded = ", ".join(self.node_ids) or "none"
            raise KeyError(f"{node_id!r} is not loaded; loaded: {loaded}")
        return RemoteFilter.of(self, node_id, meta)

    def resize(self, n: int) -> None:
        """Have so many workers.

        It returns when new ones are started; those too many end after the call that they run,
        the idle ones first. The number of threads of a worker stays as it is.

        Args:
            n: How many workers.

        Raises:
            ChannelClosed: The pool is closed.
            Exception: A worker cannot be started; then the pool is as it was.
        """
        whole("n", n)
        self._pool.resize(n)

    def refresh(self) -> None:
        """Replace the workers by new ones, one after the other, without losing a call.

        A new worker imports modules anew: so a new version of a filter or of a plugin comes into
        use. It has what the old one held, learned states included, and takes its place once the
        call that runs there is done. An answer comes from one worker, so from one version.

        Raises:
            ChannelClosed: The pool is closed.
            Exception: A new worker cannot be started, or cannot load the filters; then the old
                one stays, and those after it.
        """
        self._pool.refresh()

    def close(self) -> None:
        """End the workers now; from any thread, within 5 s.

        Calls that run and calls that wait raise ChannelClosed. A second close does nothing, nor
        does one in a forked child: the pool is its parent's.
        """
        self._pool.close()

    def shutdown(
        self,
        wait: bool = True,
        *,
        cancel_futures: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Take no more calls, and end the workers when those that were submitted are done.

        Args:
            wait: Whether to wait for that.
            cancel_futures: Whether to cancel the calls that no worker has taken.
            timeout: Seconds after which those that are not done are ended, as by :meth:`close`;
                None for never.
        """
        check_seconds("timeout", timeout)
        self._pool.shutdown(wait=wait, cancel_futures=cancel_futures, timeout=timeout)


_Texts = list[str]  # within WorkerPool, list is a method
_Statuses = list[WorkerStatus]
