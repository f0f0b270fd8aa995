"""WorkerPool: the same filters in several workers, and calls that whichever is free takes."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from itertools import chain, repeat
from types import TracebackType
from typing import Any, Self

from soma_core.channel.contract import ProcessOptions
from soma_core.channel.deadline import Deadline
from soma_core.channel.threads import available_cores
from soma_core.client.connect import PicklePolicy, transport_maker
from soma_core.client.loadable import Loadable
from soma_core.client.pool.blueprint import Blueprint
from soma_core.client.pool.queue import Call, CallQueue
from soma_core.client.pool.slot import Slot
from soma_core.client.progress.watch import Watch
from soma_core.client.results import NodeState, WorkerStatus
from soma_core.client.worker import DEFAULT, Timeout, Worker
from soma_core.errors import ChannelClosed, TransportError
from soma_core.models.filters import FilterMeta
from soma_core.plugins.catalog import installed_transports
from soma_core.protocol.commands import StateFormat

__all__ = ["WorkerPool"]

# A Ctrl-C that comes just before a wait begins is noted, and does not end the wait: it ends the
# next one.
_SLICE = 0.2  # seconds
_CLOSING = 4.5  # seconds that close() waits for the threads; the workers are ended before that


class WorkerPool:
    """The same filters in ``n`` workers. Thread-safe.

    Calls wait in one queue, and the next free worker takes the next call, so that a slow one
    holds up nobody. A call under which its worker dies raises
    :class:`~soma_core.WorkerDied`; the worker is replaced, and all other calls go on. A worker
    that dies while it is idle costs no call.

    What a caller hands over is read when a worker takes the call: leave it unchanged until then,
    and what is in ``filters`` for as long as the pool lives.

    Args:
        transport: The name of an installed transport.
        n: How many workers; None for as many as there are cores for this process.
        filters: What each of them loads, as for :func:`~soma_core.connect`.
        timeout: Seconds that each call may take once a worker has taken it, unless it names its
            own; None for ever.
        start_timeout: Seconds in which a worker must answer its first message, and load.
        pickle: As for :func:`~soma_core.connect`.
        recycle_after: After how many calls a worker is replaced by a fresh one; None for never.
            The first ones are replaced sooner, one after the other, so that not all are away at
            once.
        options: The options of the transport. ``threads``, where the transport has it, is the
            number of cores divided by ``n`` unless it is given; None leaves the workers alone.

    Raises:
        ValueError: A number is too small, or an option is not valid.
        Exception: Whatever :func:`~soma_core.connect` raises; then no worker is left.
    """

    def __init__(
        self,
        transport: str = "stdio",
        n: int | None = None,
        *,
        filters: Mapping[str, Loadable] | None = None,
        timeout: float | None = None,
        start_timeout: float | None = 60.0,
        pickle: PicklePolicy = "same-user",
        recycle_after: int | None = None,
        **options: Any,
    ) -> None:
        n = available_cores() if n is None else _at_least_one("n", n)
        if recycle_after is not None:
            _at_least_one("recycle_after", recycle_after)
        self._transport = transport
        self._owner = os.getpid()
        self._changing = threading.Lock()
        self._queue = CallQueue()
        self._blueprint = Blueprint(
            transport_maker(
                transport,
                {"pickle": pickle, **_budget(transport, n), **options},
                filters=filters,
                apart=True,
            ),
            filters or {},
            timeout=timeout,
            start_timeout=start_timeout,
        )
        self._slots: list[Slot] = []
        # The slots know nothing of this object, so that they end when nobody has it any more.
        weakref.finalize(self, _finish, self._owner, self._queue).atexit = False
        try:
            self._start(n, recycle_after)
        except BaseException:
            self.close()
            raise

    def _start(self, n: int, recycle_after: int | None) -> None:
        slots = self._slots
        for number in range(n):
            first = recycle_after and -(-recycle_after * (number + 1) // n)
            slots.append(
                Slot(
                    self._queue,
                    self._blueprint,
                    quotas=chain([first], repeat(recycle_after)),
                    has_workers=lambda: any(slot.worker is not None for slot in slots),
                    name=f"soma-pool-{number}",
                )
            )
        starts = [slot.started for slot in slots]
        for start in wait_for(starts, return_when=FIRST_EXCEPTION).done:
            start.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._slots)

    def __repr__(self) -> str:
        busy = sum(slot.busy for slot in self._slots)
        return (
            f"<WorkerPool of {len(self)} over {self._transport}, {busy} busy, "
            f"{len(self._queue)} waiting, nodes {self.node_ids}>"
        )

    @property
    def node_ids(self) -> list[str]:
        """The ids of the nodes that every worker has."""
        return self._blueprint.node_ids

    def status(self) -> list[WorkerStatus]:
        """What is known of each worker without asking it; one that is being replaced is absent."""
        workers = [slot.worker for slot in self._slots]
        return [worker.status() for worker in workers if worker is not None]

    def submit(
        self,
        node_id: str | Sequence[str],
        x: Any,
        *,
        state: Any = None,
        timeout: Timeout = DEFAULT,
    ) -> Future[Any]:
        """Run one node, or a chain of nodes, in whichever worker is free first.

        Args:
            node_id: The node; or several in order, the output of each being the input of the
                next.
            x: The input.
            state: As for :meth:`Worker.forward`; of a chain, states by node id.
            timeout: Seconds that the call may take once a worker has taken it. How long to wait
                for that is said by ``Future.result(timeout)``, and ``Future.cancel`` withdraws
                a call that no worker has taken.

        Returns:
            A future; it raises what the call on a Worker would.

        Raises:
            ChannelClosed: The pool is closed.
            StartFailed: The pool is broken: no worker is left, and none can be started.
        """

        def forward(worker: Worker) -> Any:
            if isinstance(node_id, str):
                return worker.forward(node_id, x, state, timeout=timeout)
            return worker.composite_forward(node_id, x, state, timeout=timeout)

        return self._put(Call(forward))

    def map(
        self,
        node_id: str | Sequence[str],
        xs: Iterable[Any],
        *,
        ordered: bool = True,
        ahead: int = 2,
        state: Any = None,
        timeout: Timeout = DEFAULT,
    ) -> Iterator[Any]:
        """Run one node, or a chain of nodes, on each of many inputs, lazily.

        An input for which the call fails raises at its place, and ends the iterator, but not
        the pool. An error of ``xs`` is raised after the results of what came before it. When
        the iterator ends early, calls that no worker has taken are cancelled; Ctrl-C also
        interrupts those that run.

        Args:
            node_id: As for :meth:`submit`.
            xs: The inputs; they may be without end.
            ordered: Whether results come in the order of the inputs, or as they are ready.
            ahead: How many inputs for each worker may be taken before their results are.
            state: As for :meth:`submit`.
            timeout: As for :meth:`submit`, for each input.
        """
        self._check_owner()
        self._queue.check_open()
        window = _at_least_one("ahead", ahead) * len(self)

        def start(x: Any) -> Future[Any]:
            return self.submit(node_id, x, state=state, timeout=timeout)

        return self._results(map(start, xs), window, ordered)

    def _results(self, calls: Iterator[Future[Any]], window: int, ordered: bool) -> Iterator[Any]:
        pending: list[Future[Any]] = []
        end: Exception | None = None
        with self._given_up_early(pending):
            while True:
                try:
                    while end is None and len(pending) < window:
                        pending.append(next(calls))
                except Exception as error:  # StopIteration, or what the inputs raised
                    end = error
                if not pending:
                    break
                done = _wait_for_one(pending[:1] if ordered else pending)
                pending.remove(done)
                yield done.result()
        if end is not None and not isinstance(end, StopIteration):
            raise end

    @contextmanager
    def _given_up_early(self, futures: Collection[Future[Any]]) -> Iterator[None]:
        """Cancel what is left of some calls in the end, and at Ctrl-C interrupt those that run."""
        try:
            yield
        except KeyboardInterrupt:
            left = [future for future in futures if not future.cancel()]
            for slot in self._slots:
                slot.interrupt(left)
            raise
        finally:
            for future in futures:
                future.cancel()

    def fit(
        self,
        node_id: str,
        x: Any,
        y: Any = None,
        *,
        return_state: bool = True,
        progress: Watch = None,
        timeout: Timeout = DEFAULT,
    ) -> Any:
        """Fit one node in one worker, and give every worker what it learned.

        Calls that are submitted afterwards use it, in whichever worker. The worker of a fit that
        fails is replaced, since the filter may be half changed.

        Args:
            node_id: The node.
            x: The training data.
            y: The targets, or None.
            return_state: Whether to return the state.
            progress: Called with what the filter reports while it runs, on another thread; True
                shows it on stderr.
            timeout: Seconds, once a worker has taken it.

        Returns:
            The state, or None with ``return_state=False``.
        """

        def run(worker: Worker) -> tuple[Any, NodeState]:
            learned = worker.fit(
                node_id, x, y, return_state=return_state, progress=progress, timeout=timeout
            )
            return learned, worker.get_state(node_id, timeout=timeout)

        def commit(result: tuple[Any, NodeState]) -> int:
            return blueprint.set_state(node_id, result[1])

        blueprint = self._blueprint
        learned, _ = self._change(run, commit, replace_on_error=True)
        return learned

    def get_state(
        self, node_id: str, *, format: StateFormat | None = None, timeout: Timeout = DEFAULT
    ) -> NodeState:
        """What the object of a node holds, and what the node learned; the same in every worker."""

        def run(worker: Worker) -> NodeState:
            return worker.get_state(node_id, format=format, timeout=timeout)

        state: NodeState = self._wait(Call(run))
        return state

    def set_state(self, node_id: str, state: NodeState, *, timeout: Timeout = DEFAULT) -> None:
        """Give every worker what :meth:`get_state` returned, of this pool or of a Worker.

        Raises:
            RemoteError: It does not fit; then no worker has it.
        """
        if not isinstance(state, NodeState):
            raise TypeError(f"state is a NodeState, from get_state; got {type(state).__name__}")
        blueprint = self._blueprint
        self._change(
            lambda worker: worker.set_state(node_id, state, timeout=timeout),
            lambda _: blueprint.set_state(node_id, state),
        )

    def load(
        self,
        filters: Mapping[str, Loadable],
        *,
        trainable: bool | Mapping[str, bool] = True,
        timeout: Timeout = DEFAULT,
    ) -> dict[str, FilterMeta]:
        """Load filters into every worker, as :meth:`Worker.load` does.

        Raises:
            RemoteError: One could not be loaded; then no worker has any of them.
        """
        blueprint, kept = self._blueprint, dict(filters)
        metas: dict[str, FilterMeta] = self._change(
            lambda worker: worker.load(kept, trainable=trainable, timeout=timeout),
            lambda _: blueprint.load(kept, trainable),
        )
        return metas

    def unload(self, node_ids: Iterable[str], *, timeout: Timeout = DEFAULT) -> None:
        """Have every worker forget nodes and what they learned, all or none."""
        blueprint, gone = self._blueprint, list(node_ids)
        self._change(
            lambda worker: worker.unload(gone, timeout=timeout), lambda _: blueprint.unload(gone)
        )

    def close(self) -> None:
        """End the workers now; from any thread, within 5 s.

        Calls that run and calls that wait raise ChannelClosed. A second close does nothing, nor
        does one in a forked child: the pool is its parent's.
        """
        if os.getpid() != self._owner:
            return
        deadline = Deadline.after(_CLOSING)
        self._queue.end(lambda: ChannelClosed("the pool was closed"))
        threads = [threading.Thread(target=slot.close, daemon=True) for slot in self._slots]
        for thread in threads:
            thread.start()
        joins = [thread.join for thread in threads] + [slot.join for slot in self._slots]
        for join in joins:
            join(deadline.left())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the workers when those that were submitted are done.

        Args:
            wait: Whether to wait for that.
            cancel_futures: Whether to cancel the calls that no worker has taken.
        """
        self._check_owner()
        self._queue.close(lambda: ChannelClosed("the pool was shut down"))
        if cancel_futures:
            self._queue.cancel()
        for slot in self._slots if wait else ():
            slot.join()

    def _change(
        self,
        run: Callable[[Worker], Any],
        commit: Callable[[Any], int],
        *,
        replace_on_error: bool = False,
    ) -> Any:
        """Change one worker; if that succeeds, the others follow before their next call."""
        self._check_owner()
        with self._changing:
            return self._wait(Call(run, commit, replace_on_error))

    def _wait(self, call: Call) -> Any:
        future = self._put(call)
        with self._given_up_early([future]):
            _wait_for_one([future])
            return future.result()

    def _put(self, call: Call) -> Future[Any]:
        self._check_owner()
        self._queue.put(call)
        return call.future

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise TransportError(
                "this WorkerPool belongs to the process that this one was forked from; make a "
                "pool here"
            )


def _wait_for_one(futures: Collection[Future[Any]]) -> Future[Any]:
    """Wait until one of them has ended, and return it."""
    while True:
        done = wait_for(futures, _SLICE, FIRST_COMPLETED).done
        if done:
            return done.pop()


def _budget(transport: str, n: int) -> dict[str, int]:
    """The cores of one of n workers, if the transport can limit its threads."""
    budgeted = issubclass(installed_transports().load(transport).Options, ProcessOptions)
    return {"threads": max(1, available_cores() // n)} if budgeted else {}


def _at_least_one(name: str, number: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} is a whole number, got {number!r}")
    if number < 1:
        raise ValueError(f"{name} is at least 1, got {number}")
    return number


def _finish(owner: int, queue: CallQueue) -> None:
    """The pool is garbage: its workers finish what was submitted, and end."""
    if os.getpid() == owner:
        queue.close(lambda: ChannelClosed("the pool is gone"))
