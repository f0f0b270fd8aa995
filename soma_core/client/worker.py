"""Worker: the host's handle on one engine, whose methods block."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, Self, TypeVar, Unpack

from pydantic import ValidationError

from soma_core.channel.contract import Transport
from soma_core.client.arguments import DEFAULT, Meta, Timeout
from soma_core.client.around import with_plugins
from soma_core.client.calls import Call
from soma_core.client.chunks import StreamPlan, stream
from soma_core.client.engines import RestartingEngine
from soma_core.client.handle import CLOSE_GRACE, Handle
from soma_core.client.remote_filter import RemoteFilter
from soma_core.client.results import WorkerStatus
from soma_core.client.signatures import attribute_error, binding_error
from soma_core.client.steps import Steps, argument_error
from soma_core.client.verbs.verbs import Verbs
from soma_core.client.worker_options import WorkerArguments, WorkerOptions
from soma_core.errors import RemoteError, SomaError
from soma_core.models.filters import FilterMeta
from soma_core.plugins.manager import PluginSet, installed_plugins
from soma_core.protocol.commands import Shutdown

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    verb: Callable[Concatenate[Verbs, P], Steps[T]],
) -> Callable[Concatenate[Worker, P], T]:
    """The method of a Worker for a verb: it sends what the verb says, and waits for the replies.

    What a filter raises has the user's line and the filter's own in its traceback, and this one.
    """

    @wraps(verb)
    def method(self: Worker, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            steps = verb(self.verbs, *args, **kwargs)
        except TypeError as error:
            raise binding_error(f"Worker.{verb.__name__}", verb, error) from None
        try:
            return self.run(steps)
        except RemoteError as error:
            error.shorten()
            raise

    return method


class Worker:
    """The host's handle on one engine. Thread-safe: calls queue.

    Every call takes ``timeout=`` in seconds, for which queueing counts too; None waits for
    ever, and without it the worker's own timeout holds. Every call may raise
    :class:`~soma_core.DeadlineExceeded`, :class:`~soma_core.WorkerDied`,
    :class:`~soma_core.ChannelClosed` or :class:`~soma_core.RemoteError`.

    Args:
        transport: Not started yet.
        timeout: Seconds that each call may take, unless it names its own.
        start_timeout: Seconds in which the worker must answer its first message.
        stall_timeout: Seconds that a call may take without reporting progress.
        restart: As for :func:`connect`.
        retries: As for :func:`connect`.
        recorder: Records the channel; the worker closes it.
        interrupt_grace: As for :func:`connect`.
        plugins: Who is notified of the worker, and whose codecs it uses; None for all installed.

    Attributes:
        verbs: What can be asked of it, as steps for :meth:`run`.

    Raises:
        StartFailed: The worker did not come up.
        IncompatibleWorker: Its versions do not fit this host's.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        plugins: PluginSet | None = None,
        **options: Unpack[WorkerArguments],
    ) -> None:
        checked = WorkerOptions(plugins=plugins or installed_plugins(), **options)
        self._drive(Handle(transport, checked))

    def _drive(self, handle: Handle) -> None:
        self._handle = handle
        self._engine = engine = handle.engine
        # One engine has one connection, and nothing to decide between two calls.
        self._ask = engine.connection.ask
        if isinstance(engine, RestartingEngine):
            self._ask = engine.ask
        self._around = engine.plugins.around_calls()
        self.verbs = self._handle.verbs

    load = _blocking(Verbs.load)
    unload = _blocking(Verbs.unload)
    list = _blocking(Verbs.list)
    call = _blocking(Verbs.call)
    ping = _blocking(Verbs.ping)

    forward = _blocking(Verbs.forward)
    predict = _blocking(Verbs.predict)
    predict_proba = _blocking(Verbs.predict_proba)
    transform = _blocking(Verbs.transform)
    score = _blocking(Verbs.score)
    call_method = _blocking(Verbs.call_method)
    composite_forward = _blocking(Verbs.composite_forward)

    fit = _blocking(Verbs.fit)
    partial_fit = _blocking(Verbs.partial_fit)
    composite_fit = _blocking(Verbs.composite_fit)
    compute_gradients = _blocking(Verbs.compute_gradients)
    batched_fit = _blocking(Verbs.batched_fit)

    get_state = _blocking(Verbs.get_state)
    set_state = _blocking(Verbs.set_state)
    save_checkpoint = _blocking(Verbs.save_checkpoint)
    load_checkpoint = _blocking(Verbs.load_checkpoint)
    get_gradients = _blocking(Verbs.get_gradients)
    apply_gradients = _blocking(Verbs.apply_gradients)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> NoReturn:
        raise TypeError("a Worker is used by `with`; `async with` takes soma.connect_async(…)")

    async def __aexit__(self, *error: object) -> None:
        """There is nothing to leave."""

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            raise attribute_error(self, name, () if name.startswith("_") else self.node_ids)

    def __repr__(self) -> str:
        return self._handle.describe("Worker")

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Worker belongs to the process that started it, and is not pickled; connect anew in "
            "the other process"
        )

    @property
    def metas(self) -> Mapping[str, FilterMeta]:
        """What is known of the worker's nodes, by id; a session is asked, others may load too."""
        self.run(self.verbs.refresh())
        return MappingProxyType(self.verbs.metas)

    @property
    def node_ids(self) -> _Texts:
        """The ids of the worker's nodes; a session is asked, others may load too."""
        return [*self.metas]

    def stream(
        self,
        node_ids: Sequence[str],
        chunks: Iterable[Any],
        *,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Generator[Any, None, None]:
        """Run chunks of data through a chain of nodes, each when its result is asked for.

        Nodes treat the chunks as their stream mode says: ``FixedState`` each alike; ``Evolving``
        learns from each by ``partial_fit`` before it runs, going on from what it learned last;
        ``Barrier`` is given all of them at once, gathered here. Without a Barrier no more than
        one chunk is held. Between two chunks the worker is free for other calls.

        Args:
            node_ids: The nodes in order, at least one.
            chunks: The data, from any iterable; closed when the stream is.
            meta: As for :meth:`forward`, with each command.
            timeout: Seconds for each command.

        Returns:
            A generator of results; closing it early ends the stream.

        Raises:
            ValueError: Neighbours declare what cannot fit together; the message names the edge.
        """
        self.run(self.verbs.refresh())
        plan = StreamPlan.of(node_ids, self.verbs.metas)

        def run(segment: Sequence[str], x: Any) -> Any:
            learns = plan.learns(segment)
            steps = self.verbs.run_segment(segment, x, learns=learns, meta=meta, timeout=timeout)
            return self.run(steps)

        return stream(plan, chunks, run)

    def run(self, steps: Steps[T]) -> T:
        """Send what steps say, one call after another, and return what they come to.

        Args:
            steps: A method of :attr:`verbs`, called.

        Raises:
            TypeError, ValueError: A command does not take an argument.
            SomaError: What a call of a Worker raises.
        """
        around = with_plugins(self._around, steps) if self._around else steps
        try:
            call = next(around)
            while True:
                try:
                    try:
                        reply = self._ask(call)
                    except BaseException as error:
                        if not self._mend(call, error):
                            raise
                        continue
                except BaseException as error:
                    call = around.throw(error)
                else:
                    call = around.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result
        except ValidationError as error:
            raise argument_error(steps, error) from None
        except RemoteError as error:
            error.shorten()
            raise

    def _mend(self, call: Call, error: BaseException) -> bool:
        """Whether what made a call fail could be removed, so that it is to be sent again."""
        remedy = self.verbs.remedy(call, error)
        for before in remedy or ():
            self._engine.connection.ask(before)
        return remedy is not None

    def interrupt(self) -> None:
        """Interrupt the call that runs, from another thread; it raises RemoteError there."""
        self._engine.connection.interrupt()

    def status(self) -> WorkerStatus:
        """What is known of the worker without asking it."""
        return self._handle.status()

    def filter(self, node_id: str) -> RemoteFilter:
        """A loaded node as a Filter of its own, for code that expects one.

        That of a scikit-learn estimator is an estimator itself: it can be cloned, searched over
        and put into a Pipeline.

        Args:
            node_id: The node.

        Raises:
            KeyError: This worker loaded no such node.
        """
        metas = self.metas
        if node_id not in metas:
            raise KeyError(f"{node_id!r} is not loaded; loaded: {', '.join(metas) or 'none'}")
        hook = self._engine.plugins.hook.soma_remote_filter
        own: RemoteFilter | None = hook(worker=self, node_id=node_id, meta=metas[node_id])
        return RemoteFilter.of(self, node_id, metas[node_id]) if own is None else own

    def close(self) -> None:
        """End a private worker, or leave a shared one; from any thread, at most 5 s.

        A call that runs raises ChannelClosed. A second close does nothing, nor does one in a
        forked child: the worker is its parent's.
        """
        if self._handle.belongs_to_this_process:
            self._handle.close()

    def shutdown(self) -> None:
        """End the worker, even one that other clients share."""
        if not self._handle.belongs_to_this_process:
            return
        with suppress(SomaError, OSError):  # it is ended all the same, by force if it must be
            self._engine.connection.ask(Call.of(Shutdown(cmd="SHUTDOWN"), CLOSE_GRACE))
        self._handle.shutdown()


def drive(handle: Handle) -> Worker:
    """A Worker for an engine that was started already; nobody else may use that meanwhile."""
    worker = Worker.__new__(Worker)
    worker._drive(handle)
    return worker


_Texts = list[str]  # within Worker, list is a method
