"""AsyncWorker: an event loop's handle on one engine, whose methods are awaited."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, suppress
from functools import wraps
from types import MappingProxyType
from typing import Any, Concatenate, NoReturn, ParamSpec, Self, TypeVar

from pydantic import ValidationError

from soma_core.client.aio.channels import WatchedChannel
from soma_core.client.aio.connection import AsyncConnection
from soma_core.client.aio.pipelined import PipelinedConnection
from soma_core.client.aio.streams import stream
from soma_core.client.aio.threads import in_thread
from soma_core.client.arguments import DEFAULT, Meta, Timeout, as_node_ids
from soma_core.client.around import with_plugins
from soma_core.client.calls import Call
from soma_core.client.chunks import StreamPlan
from soma_core.client.engines import RestartingEngine, late
from soma_core.client.handle import CLOSE_GRACE, Handle
from soma_core.client.results import WorkerStatus
from soma_core.client.signatures import binding_error
from soma_core.client.steps import Steps, argument_error
from soma_core.client.verbs.verbs import Verbs
from soma_core.client.worker import Worker, drive
from soma_core.errors import RemoteError, SomaError, WorkerDied
from soma_core.models.filters import FilterMeta
from soma_core.protocol.commands import Shutdown

P = ParamSpec("P")
T = TypeVar("T")


def _awaited(
    verb: Callable[Concatenate[Verbs, P], Steps[T]],
) -> Callable[Concatenate[AsyncWorker, P], Coroutine[Any, Any, T]]:
    """The method of an AsyncWorker for a verb: it sends what the verb says, awaiting replies."""

    @wraps(verb)
    async def method(self: AsyncWorker, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            steps = verb(self.verbs, *args, **kwargs)
        except TypeError as error:
            raise binding_error(f"AsyncWorker.{verb.__name__}", verb, error) from None
        try:
            return await self.run(steps)
        except RemoteError as error:
            error.shorten()
            raise

    return method


class AsyncWorker:
    """An event loop's handle on one engine, from :func:`soma_core.connect_async`.

    Its methods are those of :class:`~soma_core.Worker`, awaited. Calls of several tasks queue. A
    call whose task is cancelled, by hand or by ``asyncio.timeout`` or a ``TaskGroup``, is
    interrupted as at a deadline, and the worker can be used on.

    Callbacks (``progress``, ``on_epoch``) are called in the loop, and must not block it. It belongs
    to the loop and the process that started it: other use raises RuntimeError or TransportError.

    Args:
        handle: The worker, which was started.

    Attributes:
        verbs: What can be asked of it, as steps for :meth:`run`.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._engine = handle.engine
        self._loop = asyncio.get_running_loop()
        self._connection = AsyncConnection(handle.transport, self._engine.connection, self._loop)
        self._restarting = asyncio.Lock()
        self._around = self._engine.plugins.around_calls()
        self.verbs = handle.verbs

    @classmethod
    async def start(cls, start: Callable[[], Handle]) -> Self:
        """Start a worker in a thread, which ends then; one that comes up too late is closed.

        Args:
            start: Starts it, and blocks until it answers.
        """
        return cls(await in_thread(start, Handle.close, name="soma-start"))

    load = _awaited(Verbs.load)
    unload = _awaited(Verbs.unload)
    list = _awaited(Verbs.list)
    call = _awaited(Verbs.call)
    ping = _awaited(Verbs.ping)

    forward = _awaited(Verbs.forward)
    predict = _awaited(Verbs.predict)
    predict_proba = _awaited(Verbs.predict_proba)
    transform = _awaited(Verbs.transform)
    score = _awaited(Verbs.score)
    call_method = _awaited(Verbs.call_method)
    composite_forward = _awaited(Verbs.composite_forward)

    fit = _awaited(Verbs.fit)
    partial_fit = _awaited(Verbs.partial_fit)
    composite_fit = _awaited(Verbs.composite_fit)
    compute_gradients = _awaited(Verbs.compute_gradients)
    batched_fit = _awaited(Verbs.batched_fit)

    get_state = _awaited(Verbs.get_state)
    set_state = _awaited(Verbs.set_state)
    save_checkpoint = _awaited(Verbs.save_checkpoint)
    load_checkpoint = _awaited(Verbs.load_checkpoint)
    get_gradients = _awaited(Verbs.get_gradients)
    apply_gradients = _awaited(Verbs.apply_gradients)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return self._handle.describe("AsyncWorker")

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an AsyncWorker belongs to the event loop that started it, and is not pickled; connect "
            "anew in the other process"
        )

    @property
    def metas(self) -> Mapping[str, FilterMeta]:
        """What is known of the worker's nodes, by id; of a session, since the last :meth:`list`."""
        return MappingProxyType(self.verbs.metas)

    @property
    def node_ids(self) -> _Texts:
        """The ids of the worker's nodes; of a session, since the last :meth:`list`."""
        return [*self.verbs.metas]

    def stream(
        self,
        node_ids: Sequence[str],
        chunks: Iterable[Any] | AsyncIterable[Any],
        *,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> AsyncGenerator[Any, None]:
        """Run chunks of data through a chain of nodes, as :meth:`Worker.stream`: ``async for``.

        Args:
            node_ids: The nodes in order, at least one.
            chunks: The data, from any iterable or asynchronous iterable; closed with the stream.
            meta: As for :meth:`Worker.forward`, with each command.
            timeout: Seconds for each command.
        """
        return self._stream(as_node_ids(node_ids), chunks, meta, timeout)

    async def _stream(
        self,
        node_ids: Sequence[str],
        chunks: Iterable[Any] | AsyncIterable[Any],
        meta: Meta,
        timeout: Timeout,
    ) -> AsyncGenerator[Any, None]:
        await self.run(self.verbs.refresh())
        plan = StreamPlan.of(node_ids, self.verbs.metas)

        async def run(segment: Sequence[str], x: Any) -> Any:
            learns = plan.learns(segment)
            steps = self.verbs.run_segment(segment, x, learns=learns, meta=meta, timeout=timeout)
            return await self.run(steps)

        async with aclosing(stream(plan, chunks, run)) as flow:
            async for out in flow:
                yield out

    async def run(self, steps: Steps[T]) -> T:
        """Send what steps say, as :meth:`Worker.run`.

        Args:
            steps: A method of :attr:`verbs`, called.

        Raises:
            RuntimeError: It is run in another event loop.
        """
        try:
            is_here = asyncio.get_running_loop() is self._loop
        except RuntimeError:  # none runs: in a forked child, which keeps none
            is_here = False
        if not is_here:
            self._check_loop()
        around = with_plugins(self._around, steps) if self._around else steps
        try:
            call = next(around)
            while True:
                try:
                    try:
                        reply = await self._ask(call)
                    except BaseException as error:
                        if not await self._mend(call, error):
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

    async def _ask(self, call: Call) -> Any:
        """Send a command to the current engine, as :meth:`RestartingEngine.ask` if it is one."""
        engine = self._engine
        if not isinstance(engine, RestartingEngine):
            return await self._connection.ask(call)
        repeats = engine.repeats(call)
        while True:
            connection = await self._living(engine, call)
            engine.check(call)
            try:
                reply = await connection.ask(call)
            except WorkerDied as death:
                if death.sent and repeats == 0:
                    raise
                repeats -= death.sent
            else:
                engine.acknowledged(call, reply)
                return reply

    async def _living(self, engine: RestartingEngine, call: Call) -> AsyncConnection:
        """The connection to an engine that lives; a thread starts it if it must."""
        if self._connection.conversation.ended is None:
            return self._connection
        try:
            async with asyncio.timeout(call.deadline.left()), self._restarting:
                origin = await in_thread(lambda: engine.living(call), name="soma-restart")
        except TimeoutError as error:
            raise error if isinstance(error, SomaError) else late(call.cmd) from None
        if origin is not self._connection.origin:
            transport = self._handle.transport
            self._connection = AsyncConnection(transport, origin, self._loop)
        return self._connection

    async def _mend(self, call: Call, error: BaseException) -> bool:
        """Whether what made a call fail could be removed, so that it is to be sent again."""
        remedy = self.verbs.remedy(call, error)
        for before in remedy or ():
            await self._connection.ask(before)
        return remedy is not None

    def _check_loop(self) -> None:
        """Raise what this use in another loop than its own deserves."""
        self._connection.conversation.check_usable()
        raise RuntimeError(
            "this AsyncWorker belongs to another event loop, the one that connected it; connect "
            "one in this loop, or use a Worker, which any thread may call"
        )

    def interrupt(self) -> None:
        """Interrupt the call that runs; it raises RemoteError."""
        self._connection.interrupt()

    def status(self) -> WorkerStatus:
        """What is known of the worker without asking it."""
        return self._handle.status()

    def pipeline(self) -> PipelinedConnection | None:
        """A way to send this worker commands before it has answered those before.

        None if there is none: it is not certain to be on this machine, so that a reply may be lost
        with it, somebody watches each call, or its channel cannot be watched.
        """
        engine, connection = self._engine, self._connection
        channel = connection.channel
        observed = self._around or connection.conversation.is_observed
        recorded = self._handle.recorder is not None
        restarts = isinstance(engine, RestartingEngine)
        if observed or recorded or restarts or not isinstance(channel, WatchedChannel):
            return None
        here = self._handle.transport.runs_here(engine.hello.pid)
        return PipelinedConnection(connection, channel, self._loop) if here else None

    @asynccontextmanager
    async def lent(self) -> AsyncGenerator[Worker, None]:
        """The worker for another thread, which alone uses it meanwhile."""
        async with self._connection.lent():
            yield drive(self._handle)

    async def ask(self, call: Call) -> Any:
        """Send a command as it is."""
        return await self._connection.ask(call)

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Have a function called once the current worker closes its channel while nothing runs."""
        self._connection.on_lost = callback

    @property
    def commands_sent(self) -> int:
        """How many commands the current worker may have been sent."""
        return self._connection.conversation.commands_sent

    @property
    def is_lost(self) -> bool:
        """Whether the current worker has closed its channel while nothing ran: it ends."""
        return self._connection.is_lost

    @property
    def is_settling(self) -> bool:
        """Whether a call that was cancelled is not given up yet."""
        return self._connection.is_settling

    async def settled(self) -> None:
        """Wait until a call that was cancelled is given up, so that the next one need not wait."""
        await self._connection.settled()

    async def close(self) -> None:
        """End a private worker, or leave a shared one, as :meth:`Worker.close`."""
        if self._handle.belongs_to_this_process:
            await self._close(self._handle.close)

    async def _close(self, close: Callable[[], None]) -> None:
        self._connection.close()
        await in_thread(close, name="soma-close")
        await self._connection.settled()

    async def shutdown(self) -> None:
        """End the worker, even one that other clients share."""
        if not self._handle.belongs_to_this_process:
            return
        with suppress(SomaError, OSError):  # it is ended all the same, by force if it must be
            await self._connection.ask(Call.of(Shutdown(cmd="SHUTDOWN"), CLOSE_GRACE))
        await self._close(self._handle.shutdown)


_Texts = list[str]  # within AsyncWorker, list is a method
