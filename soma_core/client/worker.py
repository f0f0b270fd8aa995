"""Worker: the host's handle on one engine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import wraps
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Concatenate, Final, Literal, NoReturn, ParamSpec, Self, TypeVar

from pydantic import ValidationError

from soma_core.channel.contract import Transport
from soma_core.client import checkpoint
from soma_core.client.arguments import as_node_ids, check_bytes, check_seconds
from soma_core.client.batched_fits import (
    Metric,
    OnEpoch,
    as_chunks,
    batched_fit_command,
    run_batched_fit,
)
from soma_core.client.calls import Call, Progress
from soma_core.client.chunks import stream
from soma_core.client.connection import INTERRUPT_GRACE
from soma_core.client.loadable import Loadable, adapt, check_filter, check_filters
from soma_core.client.missing_modules import missing_module
from soma_core.client.profiles import profiled
from soma_core.client.progress.watch import Watch, watched
from soma_core.client.recording import Recorder
from soma_core.client.recovery import RecoveryLog
from soma_core.client.remote_filter import RemoteFilter
from soma_core.client.results import (
    BatchedFitResult,
    CompositeFitResult,
    NodeListing,
    NodeState,
    Pong,
    WorkerListing,
    WorkerStatus,
)
from soma_core.client.sessions import RestartingSession, Session
from soma_core.client.usage import process_usage
from soma_core.errors import RemoteError, SomaError
from soma_core.models.chains import ChainNode, check_chain
from soma_core.models.filters import FilterMeta, StreamMode
from soma_core.models.validation_errors import describe
from soma_core.plugins.manager import PluginSet, installed_plugins
from soma_core.protocol import commands as c
from soma_core.protocol.fields import set_fields
from soma_core.protocol.parsing import name_of_command
from soma_core.wire.pickles import Pickles

__all__ = ["DEFAULT", "Timeout", "Worker", "check_recovery"]

P = ParamSpec("P")
T = TypeVar("T")

_Texts = list[str]  # within Worker, list is a method

_CLOSE_GRACE = 2.0
_OWN_COMMANDS = {name: name.lower() for name in map(name_of_command, c.COMMANDS)}
_OWN_COMMANDS |= {"HELLO": "ping"}


class _Default(Enum):
    """Stands for the worker's own timeout where a call names none."""

    TIMEOUT = "the worker's timeout"


DEFAULT: Final = _Default.TIMEOUT
Timeout = float | None | Literal[_Default.TIMEOUT]


def check_recovery(restart: str, retries: int) -> None:
    """Make sure that these arguments of a worker go together.

    Raises:
        ValueError: They do not.
    """
    if restart not in ("never", "on-crash"):
        raise ValueError(f"restart is 'never' or 'on-crash', got {restart!r}")
    if type(retries) is not int or retries < 0:
        raise ValueError(f"retries is a whole number from 0 on, got {retries!r}")
    if retries and restart == "never":
        raise ValueError("retries needs restart='on-crash': a dead worker answers no second time")


def _arguments_checked(
    method: Callable[Concatenate[Worker, P], T],
) -> Callable[Concatenate[Worker, P], T]:
    """Let a method say in one line which of its arguments its command does not take.

    What a filter raises has the user's line and the filter's own in its traceback, and this one.
    """

    @wraps(method)
    def checked(self: Worker, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except ValidationError as error:
            raise _argument_error(method.__name__, error) from None
        except RemoteError as error:
            error.shorten()
            raise

    return checked


def _argument_error(method: str, error: ValidationError) -> TypeError | ValueError:
    of_type = any(problem["type"].endswith("_type") for problem in error.errors(include_url=False))
    kind = TypeError if of_type else ValueError
    return kind(f"Worker.{method}: {describe(error)}")


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
        plugins: Who is told of the worker, and whose codecs it uses; None for all installed.

    Raises:
        StartFailed: The worker did not come up.
        IncompatibleWorker: Its versions do not fit this host's.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        timeout: float | None = None,
        start_timeout: float | None = 60.0,
        stall_timeout: float | None = None,
        restart: Literal["never", "on-crash"] = "never",
        retries: int = 0,
        recorder: Recorder | None = None,
        interrupt_grace: float = INTERRUPT_GRACE,
        plugins: PluginSet | None = None,
    ) -> None:
        check_recovery(restart, retries)
        check_seconds("timeout", timeout)
        check_seconds("start_timeout", start_timeout)
        check_seconds("stall_timeout", stall_timeout)
        plugins = installed_plugins() if plugins is None else plugins
        self._transport = transport
        self._recorder = recorder
        self._timeout = timeout
        self._stall_timeout = stall_timeout
        allowed = transport.options.pickle != "never"
        self._pickles = Pickles(allowed=allowed, codecs=plugins.known_codecs())
        self._metas: dict[str, FilterMeta] = {}
        self._registered: set[str] = set()
        options: dict[str, Any] = {
            "start_timeout": start_timeout,
            "recorder": recorder,
            "grace": interrupt_grace,
        }
        self._session = (
            Session(transport, self._pickles, plugins, **options)
            if restart == "never"
            else RestartingSession(
                transport, self._pickles, plugins, RecoveryLog(self._pickles), retries, **options
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        session = self._session
        state = "closed" if session.connection.closed else f"pid {session.hello.pid}"
        return f"<Worker over {self._transport.name}, {state}, nodes {list(self._metas)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Worker belongs to the process that started it, and is not pickled; connect anew in "
            "the other process"
        )

    @property
    def metas(self) -> Mapping[str, FilterMeta]:
        """What is known of the worker's nodes, by id; a session is asked, others may load too."""
        self._ask_session()
        return MappingProxyType(self._metas)

    @property
    def node_ids(self) -> _Texts:
        """The ids of the worker's nodes; a session is asked, others may load too."""
        return list(self.metas)

    def list(self, *, timeout: Timeout = DEFAULT) -> WorkerListing:
        """What the worker holds, and what it can do."""
        reply = self._ask(c.ListNodes(cmd="LIST"), timeout)
        details = reply.details or {}
        self._metas = dict(reply.nodes)
        self._registered = {node_id for node_id, known in details.items() if known.filter}
        hello = self._session.hello
        return WorkerListing(
            nodes={
                node_id: NodeListing(meta, known.filter, known.trainable, known.learned)
                for node_id, meta in reply.nodes.items()
                if (known := details.get(node_id))
            },
            filters=reply.filters,
            versions=hello.versions.model_dump(),
            codecs=hello.codecs,
            features=hello.features,
        )

    @_arguments_checked
    def load(
        self,
        filters: Mapping[str, Loadable],
        *,
        trainable: bool | Mapping[str, bool] = True,
        timeout: Timeout = DEFAULT,
    ) -> dict[str, FilterMeta]:
        """Load filters, all or none; one of an id that is loaded is replaced.

        Objects are pickled, what modules define that the worker cannot import by value.

        Args:
            filters: As for :func:`connect`.
            trainable: Whether the composite commands call ``fit`` of the nodes, for all or by
                id. The joint training step trains by gradients whatever has an optimizer.
            timeout: Seconds.

        Returns:
            What is known of each filter, by node id.

        Raises:
            TypeError: An object is not a filter; the message says what wraps it.
        """
        check_filters(filters)
        adapted = {node_id: adapt(obj) for node_id, obj in filters.items()}
        for node_id, filter_like in adapted.items():
            check_filter(node_id, filter_like)

        def specs() -> list[c.FilterSpec]:
            return [self._spec(*item, trainable) for item in adapted.items()]

        call = Call.of(c.Load(cmd="LOAD", filters=specs()), self._seconds(timeout))
        metas: dict[str, FilterMeta] = self._perform(call, lambda: {"filters": specs()}).filters
        self._metas.update(metas)
        named = {node_id for node_id, item in adapted.items() if isinstance(item, str | tuple)}
        self._registered = (self._registered - adapted.keys()) | named
        return metas

    def _spec(
        self, node_id: str, filter_like: Loadable, trainable: bool | Mapping[str, bool]
    ) -> c.FilterSpec:
        flag = trainable if isinstance(trainable, bool) else trainable.get(node_id, True)
        if isinstance(filter_like, str):
            return c.FilterSpec(id=node_id, trainable=flag, filter=filter_like)
        if isinstance(filter_like, tuple):
            name, config = filter_like
            return c.FilterSpec(id=node_id, trainable=flag, filter=name, config=dict(config))
        return c.FilterSpec(id=node_id, trainable=flag, pickle_b64=self._pickle(filter_like))

    def _pickle(self, filter_like: object) -> bytes:
        # A recording is read by other processes, which could not return what was lent to this one.
        if self._pickles.allowed and self._recorder is None:
            lent = self._transport.lend(filter_like)
            if lent is not None:
                return lent
        return self._pickles.dump(filter_like)

    @_arguments_checked
    def unload(self, node_ids: Iterable[str], *, timeout: Timeout = DEFAULT) -> None:
        """Forget nodes and what they learned, all or none."""
        ids = as_node_ids(node_ids)
        self._ask(c.Unload(cmd="UNLOAD", node_ids=ids), timeout)
        for node_id in ids:
            self._metas.pop(node_id, None)

    @_arguments_checked
    def fit(
        self,
        node_id: str,
        x: Any,
        y: Any = None,
        *,
        return_state: bool = True,
        progress: Watch = None,
        profile: str | os.PathLike[str] | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Any:
        """Fit one node; the state that it learned is its own from then on.

        Args:
            node_id: The node.
            x: The training data.
            y: The targets, or None.
            return_state: Whether the state travels back.
            progress: Called with what the filter reports while it runs; True shows it on stderr,
                as a bar in a terminal and as lines elsewhere.
            profile: A file for a profile of the call in the worker, as cProfile writes it.
            timeout: Seconds.

        Returns:
            The state, or None with ``return_state=False``.
        """

        command = c.Fit(cmd="FIT", node_id=node_id, data=x, y=y, return_state=return_state)
        with watched(progress, [node_id], x) as listener:
            return self._ask(
                command, timeout, uses=(node_id,), progress=listener, profile=profile
            ).result

    @_arguments_checked
    def partial_fit(
        self,
        node_id: str,
        x: Any,
        y: Any = None,
        *,
        return_state: bool = True,
        progress: Watch = None,
        timeout: Timeout = DEFAULT,
    ) -> Any:
        """Let one node go on from what it learned, on one batch.

        By its own ``partial_fit(x, y, state)``, or by one step of training if it is
        differentiable.

        Args:
            node_id: The node.
            x: The rows.
            y: Their targets, or None.
            return_state: Whether the state travels back.
            progress: As for :meth:`fit`.
            timeout: Seconds.

        Returns:
            The state, or None with ``return_state=False``.
        """
        command = c.PartialFit(
            cmd="PARTIAL_FIT", node_id=node_id, data=x, y=y, return_state=return_state
        )
        with watched(progress, [node_id], x) as listener:
            return self._ask(command, timeout, uses=(node_id,), progress=listener).result

    @_arguments_checked
    def forward(
        self,
        node_id: str,
        x: Any,
        state: Any = None,
        *,
        progress: Progress | None = None,
        profile: str | os.PathLike[str] | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Any:
        """Run one node.

        Args:
            node_id: The node.
            x: The input.
            state: The state to use; None means what the node learned last (``{}`` if nothing).
            progress: Called with what the filter, or a plugin around it, reports.
            profile: A file for a profile of the call in the worker, as cProfile writes it.
            timeout: Seconds.
        """
        if state is None:
            command = c.Forward(cmd="FORWARD", node_id=node_id, data=x)
            return self._ask(command, timeout, (node_id,), progress, profile=profile).result
        command = c.Forward(cmd="FORWARD", node_id=node_id, data=x, state=state)
        return self._ask(command, timeout, (), progress, profile=profile).result

    @_arguments_checked
    def predict(
        self, node_id: str, x: Any, state: Any = None, *, timeout: Timeout = DEFAULT
    ) -> Any:
        """Call a node's ``predict``, whatever its ``forward`` answers.

        Args:
            node_id: The node.
            x: The input.
            state: As for :meth:`forward`.
            timeout: Seconds.

        Raises:
            RemoteError: The filter has no such method, or it raised.
        """
        return self._call_method("predict", node_id, x, state, timeout)

    @_arguments_checked
    def predict_proba(
        self, node_id: str, x: Any, state: Any = None, *, timeout: Timeout = DEFAULT
    ) -> Any:
        """Call a node's ``predict_proba``; arguments and errors are those of :meth:`predict`."""
        return self._call_method("predict_proba", node_id, x, state, timeout)

    @_arguments_checked
    def transform(
        self, node_id: str, x: Any, state: Any = None, *, timeout: Timeout = DEFAULT
    ) -> Any:
        """Call a node's ``transform``; arguments and errors are those of :meth:`predict`."""
        return self._call_method("transform", node_id, x, state, timeout)

    @_arguments_checked
    def score(
        self,
        node_id: str,
        x: Any,
        y: Any = None,
        state: Any = None,
        *,
        timeout: Timeout = DEFAULT,
    ) -> Any:
        """Call a node's ``score``: how well it answers, where the targets are known.

        Args:
            node_id: The node.
            x: The input.
            y: The targets.
            state: As for :meth:`forward`.
            timeout: Seconds.

        Raises:
            RemoteError: The filter has no such method, or it raised.
        """
        return self._call_method("score", node_id, x, state, timeout, y=y)

    @_arguments_checked
    def call_method(
        self,
        method: c.Method,
        node_id: str,
        x: Any,
        y: Any = None,
        *,
        state: Any = None,
        timeout: Timeout = DEFAULT,
    ) -> Any:
        """Call any method of a node that answers: ``"decision_function"``, ``"score_samples"``.

        Args:
            method: Its name.
            node_id: The node.
            x: The input.
            y: The targets, for ``"score"``.
            state: As for :meth:`forward`.
            timeout: Seconds.

        Raises:
            ValueError: ``method`` is none of those that a node may be asked for.
            RemoteError: The filter has no such method, or it raised.
        """
        return self._call_method(method, node_id, x, state, timeout, y=y)

    def _call_method(
        self, method: c.Method, node_id: str, x: Any, state: Any, timeout: Timeout, **fields: Any
    ) -> Any:
        if state is not None:
            fields["state"] = state
        command = c.CallMethod(cmd="CALL_METHOD", node_id=node_id, method=method, data=x, **fields)
        return self._ask(command, timeout, () if "state" in fields else (node_id,)).result

    @_arguments_checked
    def composite_forward(
        self,
        node_ids: Sequence[str],
        x: Any,
        states: Mapping[str, Any] | None = None,
        *,
        progress: Progress | None = None,
        profile: str | os.PathLike[str] | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Any:
        """Run a chain of nodes, the output of each being the input of the next.

        Args:
            node_ids: The nodes in order, at least one.
            x: The input of the first.
            states: States by node id; a node without one uses what it learned last.
            progress: As for :meth:`forward`.
            profile: A file for a profile of the call in the worker, as cProfile writes it.
            timeout: Seconds.
        """

        command = c.CompositeForward(
            cmd="COMPOSITE_FORWARD", node_ids=as_node_ids(node_ids), data=x, **_given(states=states)
        )
        return self._ask(command, timeout, command.node_ids, progress, profile=profile).result

    @_arguments_checked
    def stream(
        self, node_ids: Sequence[str], chunks: Iterable[Any], *, timeout: Timeout = DEFAULT
    ) -> Generator[Any, None, None]:
        """Run chunks of data through a chain of nodes, each when its result is asked for.

        Nodes treat the chunks as their stream mode says: ``FixedState`` each alike; ``Evolving``
        learns from each by ``partial_fit`` before it runs, going on from what it learned last;
        ``Barrier`` is given all of them at once, gathered here. Without a Barrier no more than
        one chunk is held. Between two chunks the worker is free for other calls.

        Args:
            node_ids: The nodes in order, at least one.
            chunks: The data, from any iterable; closed when the stream is.
            timeout: Seconds for each command.

        Returns:
            A generator of results; closing it early ends the stream.

        Raises:
            ValueError: Neighbours declare what cannot fit together; the message names the edge.
        """
        node_ids = as_node_ids(node_ids)
        known = self.metas
        metas = {key: known.get(key, FilterMeta(name=key)) for key in node_ids}
        check_chain(ChainNode.of(node_id, metas[node_id]) for node_id in node_ids)
        modes = {node_id: meta.stream_mode for node_id, meta in known.items()}
        evolving = {key for key, mode in modes.items() if mode is StreamMode.EVOLVING}
        barriers = {key for key, mode in modes.items() if mode is StreamMode.BARRIER}

        def run(segment: Sequence[str], x: Any) -> Any:
            learns = _given(evolve=bool(evolving & set(segment)) or None)
            command = c.CompositeForward(
                cmd="COMPOSITE_FORWARD", node_ids=list(segment), data=x, **learns
            )
            return self._ask(command, timeout, segment).result

        return stream(node_ids, chunks, barriers, run)

    @_arguments_checked
    def composite_fit(
        self,
        node_ids: Sequence[str],
        x: Any,
        y: Any = None,
        *,
        return_states: bool = True,
        optimizer: Mapping[str, Any] | None = None,
        progress: Watch = None,
        profile: str | os.PathLike[str] | None = None,
        timeout: Timeout = DEFAULT,
    ) -> CompositeFitResult:
        """Fit a chain of nodes, then train its differentiable ones together by one step.

        Args:
            node_ids: The nodes in order, at least one.
            x: The training data.
            y: The targets; without them nothing is trained by gradients.
            return_states: Whether the states travel back.
            optimizer: What steps the whole chain instead of the optimizers that nodes own: a
                class of ``torch.optim`` and its arguments, ``{"name": "Adam", "lr": 0.001}``.
                The worker keeps its moments for the chain's next command.
            progress: Called with what the filters report while they run; True shows it.
            profile: A file for a profile of the call in the worker, as cProfile writes it.
            timeout: Seconds.
        """

        command = c.CompositeFit(
            cmd="COMPOSITE_FIT",
            node_ids=as_node_ids(node_ids),
            data=x,
            y=y,
            return_states=return_states,
            **_given(optimizer=optimizer),
        )
        with watched(progress, command.node_ids, x) as listener:
            reply = self._ask(command, timeout, command.node_ids, listener, profile=profile)
        return CompositeFitResult(
            result=reply.result,
            states={key: bytes(data) for key, data in (reply.states or {}).items()},
            fit_states=reply.fit_states or {},
            loss=reply.loss,
        )

    @_arguments_checked
    def compute_gradients(
        self, node_ids: Sequence[str], x: Any, y: Any, *, timeout: Timeout = DEFAULT
    ) -> tuple[float, dict[str, bytes]]:
        """The loss of a chain on one batch and its gradients; nothing is fitted or stepped.

        Args:
            node_ids: The nodes in order, at least one of them differentiable.
            x: The training data.
            y: The targets.
            timeout: Seconds.

        Returns:
            The loss, and the gradients of each node that has some, for :meth:`apply_gradients`.
        """

        command = c.CompositeFit(
            cmd="COMPOSITE_FIT", node_ids=as_node_ids(node_ids), data=x, y=y, step=False
        )
        reply = self._ask(command, timeout, command.node_ids)
        return reply.loss, {key: bytes(data) for key, data in (reply.gradients or {}).items()}

    def batched_fit(
        self,
        node_ids: Sequence[str],
        x: Any,
        y: Any = None,
        *,
        batch_size: int = 32,
        epochs: int = 1,
        shuffle: bool = False,
        seed: int | None = None,
        collect: Literal["last", "all"] = "last",
        return_states: bool = True,
        optimizer: Mapping[str, Any] | None = None,
        resume: bool = False,
        validation: tuple[Any, Any] | None = None,
        metrics: Mapping[str, str | Metric] | None = None,
        patience: int | None = None,
        restore_best: bool = False,
        on_epoch: OnEpoch | None = None,
        progress: Watch = None,
        profile: str | os.PathLike[str] | None = None,
        timeout: Timeout = DEFAULT,
    ) -> BatchedFitResult:
        """Fit a chain of nodes batch by batch; the data travels once.

        Every node of the chain begins anew, a network with the parameters that it was loaded
        with; with ``resume`` they go on from what they learned.

        Args:
            node_ids: The nodes in order, at least one.
            x: The training data: rows, or columns of rows in a dict; a :class:`DataFile` that
                the worker reads; an iterator of chunks ``(x, y)``, each taken when the worker has
                learned from the one before it; or a function that returns such an iterator for
                each epoch.
            y: The targets, or None.
            batch_size: Rows per batch; the last one may be shorter.
            epochs: How often the data is gone through.
            shuffle: Whether the rows are drawn in another order in each epoch.
            seed: Makes those orders repeatable.
            collect: Return the output of the last batch, or of all rows.
            return_states: Whether the states travel back.
            optimizer: What steps the whole chain instead of the optimizers that nodes own: a
                class of ``torch.optim`` and its arguments, ``{"name": "Adam", "lr": 0.001}``.
                The worker keeps its moments for the chain's next command.
            resume: Whether the nodes go on from what they learned.
            validation: Data and targets that the chain is measured on after each epoch, without
                learning from them.
            metrics: What is measured on them beside the loss, by name: names of scorers of
                scikit-learn, or functions ``metric(y, out)`` of all targets and outputs.
            patience: Stop after so many epochs without a better one: one with a lower validation
                loss; without a loss a higher first metric, without validation a lower loss.
            restore_best: Whether the nodes are put back as they were after the best epoch.
            on_epoch: Called after each epoch with its number and what it came to. The worker
                waits and can be called. What it raises ends the fit.
            progress: Called after each batch with epoch, epochs, batch, batches, its loss, and
                the mean_loss of the epoch so far; True shows it on stderr, as a bar in a
                terminal and as lines elsewhere.
            profile: A file for a profile of the call in the worker, as cProfile writes it; of a
                fit that is one command: no chunks, no ``on_epoch``.
            timeout: Seconds.
        """
        chunks = as_chunks(x, y, epochs)
        if profile is not None and (chunks or on_epoch):
            raise ValueError(
                "profile is of one command, and a fit of chunks or with on_epoch is several; "
                "leave one of them out"
            )
        try:
            command = batched_fit_command(
                as_node_ids(node_ids),
                None if chunks else x,
                y,
                validation=validation,
                metrics=metrics,
                batch_size=batch_size,
                epochs=epochs,
                shuffle=shuffle,
                collect=collect,
                return_states=return_states,
                resume=resume,
                restore_best=restore_best,
                **_given(optimizer=optimizer, seed=seed, patience=patience),
            )
        except ValidationError as error:
            raise _argument_error("batched_fit", error) from None
        seconds = self._seconds(timeout)
        with watched(progress, command.node_ids, x) as listener:
            reply = run_batched_fit(
                command,
                lambda part, left: self._ask(
                    part, left, command.node_ids, listener, profile=profile
                ),
                chunks=chunks,
                on_epoch=on_epoch,
                timeout=seconds,
            )
        return BatchedFitResult(
            result=reply.result,
            states=reply.states or {},
            losses=reply.losses,
            history=reply.history or {},
            best_epoch=reply.best_epoch,
        )

    @_arguments_checked
    def get_state(
        self,
        node_id: str,
        *,
        format: c.StateFormat | None = None,
        full: bool = False,
        timeout: Timeout = DEFAULT,
    ) -> NodeState:
        """Fetch what a node's object holds, and what the node learned.

        Args:
            node_id: The node.
            format: How to write it; None chooses ``torch`` for what has a ``state_dict``, else
                ``cloudpickle``, or ``value`` where pickle is off, and for a full state of a
                :class:`~soma_core.Filter`.
            full: Whether optimizers, schedulers and random numbers come with it, so that
                training resumed from it equals training that never stopped.
            timeout: Seconds.
        """

        asked = _given(format=format, full=full or None)
        command = c.GetState(cmd="GET_STATE", node_id=node_id, **asked)
        reply = self._ask(command, timeout, (node_id,))
        return NodeState(
            data=bytes(reply.state_b64),
            format=reply.format,
            fit_state={} if reply.fit_state is None else reply.fit_state,
            training=bytes(reply.training_b64) if full else None,
            config=reply.config if isinstance(reply.config, dict) else None,
        )

    @_arguments_checked
    def set_state(
        self,
        node_id: str,
        state: NodeState | bytes,
        *,
        format: c.StateFormat | None = None,
        timeout: Timeout = DEFAULT,
    ) -> None:
        """Put back what :meth:`get_state` returned.

        Args:
            node_id: The node.
            state: A NodeState; or bytes, which leave what the node learned as it is.
            format: How bytes are written; None as for :meth:`get_state`.
            timeout: Seconds.
        """

        if isinstance(state, NodeState):
            fields = {"fit_state": state.fit_state, **_given(training_b64=state.training)}
            if state.data is not None:
                fields |= {"state_b64": state.data, "format": state.format}
        elif isinstance(state, bytes | bytearray | memoryview):
            fields = {"state_b64": state, **_given(format=format)}
        else:
            raise TypeError(
                "Worker.set_state: state is a NodeState or bytes, as get_state returns, got a "
                f"{type(state).__name__}"
            )
        self._ask(c.SetState(cmd="SET_STATE", node_id=node_id, **fields), timeout)

    def save_checkpoint(self, path: str | os.PathLike[str], *, timeout: Timeout = DEFAULT) -> None:
        """Write the full states of all nodes to one file, which is replaced whole or not at all.

        Training that goes on from it equals training that never stopped. Parameters, optimizers
        and what filters learned are in it without pickles; the attributes of an object that is no
        :class:`~soma_core.Filter` and no module are a pickle. No other thread should train
        meanwhile.

        Args:
            path: The file.
            timeout: Seconds for each node.

        Raises:
            OSError: It cannot be written.
        """
        checkpoint.save(self, Path(path), self._pickles, self._by_name(), timeout)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        *,
        force: bool = False,
        timeout: Timeout = DEFAULT,
    ) -> None:
        """Put back what :meth:`save_checkpoint` wrote, into all nodes or none.

        The worker must hold the same nodes, loaded before. What they learned is put into the
        filters that are loaded, whose code and configuration stay. Only read a file that you
        trust: it may hold pickles, which ``pickle="never"`` refuses.

        Args:
            path: The file.
            force: Whether filters may be configured in another way than those that were saved.
            timeout: Seconds for each node.

        Raises:
            OSError: It cannot be read.
            ValueError: It is no checkpoint, or its nodes or their configurations are not those of
                this worker; the message names the fields that differ.
        """
        checkpoint.load(self, Path(path), self._pickles, self._by_name(), timeout, force=force)

    @_arguments_checked
    def get_gradients(self, node_id: str, *, timeout: Timeout = DEFAULT) -> bytes:
        """Fetch the gradients of a node's parameters, as ``torch.save`` wrote them by name."""
        command = c.GetGradients(cmd="GET_GRADIENTS", node_id=node_id)
        return bytes(self._ask(command, timeout, (node_id,)).gradients_b64)

    @_arguments_checked
    def apply_gradients(
        self,
        node_id: str,
        gradients: bytes,
        *,
        optimizer: Mapping[str, Any] | None = None,
        timeout: Timeout = DEFAULT,
    ) -> _Texts:
        """Set the gradients of a node's parameters, all or none, and step its optimizer.

        Args:
            node_id: The node.
            gradients: What :meth:`get_gradients` returned, or ``torch.save`` of a dict by name.
            optimizer: As for :meth:`composite_fit`, over this node alone.
            timeout: Seconds.

        Returns:
            The names of the parameters that received a gradient.
        """

        check_bytes("Worker.apply_gradients: gradients", gradients, "get_gradients")
        command = c.ApplyGradients(
            cmd="APPLY_GRADIENTS",
            node_id=node_id,
            gradients_b64=gradients,
            **_given(optimizer=optimizer),
        )
        updated: list[str] = self._ask(command, timeout, (node_id,)).updated
        return updated

    def call(
        self,
        cmd: str,
        fields: Mapping[str, Any] | None = None,
        *,
        changes_states: bool = False,
        progress: Watch = None,
        timeout: Timeout = DEFAULT,
    ) -> Any:
        """Send a command that a plugin of the worker added; the host need not have the plugin.

        Args:
            cmd: Its name: ``"EVALUATE"``.
            fields: The fields of the command, user data as Python objects.
            changes_states: Whether the command changes what its nodes learned: a restarted
                worker then raises StateLost rather than going on with older states.
            progress: Called with what the handler reports while it runs; True shows it.
            timeout: Seconds.

        Returns:
            What the handler returned.

        Raises:
            ValueError: It is one of soma's own commands, each of which has a method.
        """
        if cmd in _OWN_COMMANDS:
            raise ValueError(f"{cmd} has a method of its own: Worker.{_OWN_COMMANDS[cmd]}")
        given = {"cmd": cmd, **(fields or {})}
        node_id = given.get("node_id")
        node_ids = [*given.get("node_ids", ()), *([] if node_id is None else [node_id])]
        with watched(progress, [cmd], given.get("data")) as listener:
            call = Call(
                c.Command, given, self._seconds(timeout), node_ids, listener, self._stall_timeout
            )
            call.changes_states = changes_states
            return self._perform(call).result

    def ping(self, *, timeout: Timeout = DEFAULT) -> Pong:
        """Ask the engine whether it answers."""
        reply = self._ask(c.Ping(cmd="PING"), timeout)
        return Pong(reply.pid, reply.incarnation)

    def interrupt(self) -> None:
        """Interrupt the call that runs, from another thread; it raises RemoteError there."""
        self._session.connection.interrupt()

    def status(self) -> WorkerStatus:
        """What is known of the worker without asking it."""
        connection, hello = self._session.connection, self._session.hello
        running = connection.conversation.running
        command, node_id, since = running or (None, None, 0.0)
        ended = connection.closed or self._transport.poll() is not None
        here = not ended and self._transport.runs_here(hello.pid)
        cpu_seconds, memory_bytes = process_usage(hello.pid) if here else (None, None)
        return WorkerStatus(
            alive=not ended,
            pid=hello.pid,
            incarnation=hello.incarnation,
            command=command,
            node_id=node_id,
            seconds=time.monotonic() - since if running else 0.0,
            restarts=self._session.restarts,
            cpu_seconds=cpu_seconds,
            memory_bytes=memory_bytes,
            plugins=connection.conversation.plugins_said,
        )

    def _by_name(self) -> set[str]:
        """The nodes that were loaded by a registered name."""
        self._ask_session()
        return self._registered

    def _ask_session(self) -> None:
        if self._transport.options.shared and not self._session.connection.closed:
            self.list()

    def filter(self, node_id: str) -> RemoteFilter:
        """A loaded node as a Filter of its own, for code that expects one.

        That of a scikit-learn estimator is an estimator itself: it can be cloned, searched over
        and put into a Pipeline.

        Raises:
            KeyError: This worker loaded no such node.
        """
        metas = self.metas
        if node_id not in metas:
            raise KeyError(f"{node_id!r} is not loaded; loaded: {', '.join(metas) or 'none'}")
        hook = installed_plugins().hook.soma_remote_filter
        own: RemoteFilter | None = hook(worker=self, node_id=node_id, meta=metas[node_id])
        return RemoteFilter.of(self, node_id, metas[node_id]) if own is None else own

    def close(self) -> None:
        """End a private worker, or leave a shared one; from any thread, at most 5 s.

        A call that runs raises ChannelClosed. A second close does nothing, nor does one in a
        forked child: the worker is its parent's.
        """
        if self._session.connection.belongs_to_this_process:
            self._session.close()
            self._session.notify_exit(self._transport.stop(_CLOSE_GRACE))
            self._end_recording()

    def shutdown(self) -> None:
        """End the worker, even one that other clients share."""
        connection = self._session.connection
        if not connection.belongs_to_this_process:
            return
        with suppress(SomaError, OSError):  # it is ended all the same, by force if it must be
            connection.ask(Call.of(c.Shutdown(cmd="SHUTDOWN"), _CLOSE_GRACE))
        self._session.close()
        self._session.notify_exit(self._transport.shutdown(_CLOSE_GRACE))
        self._end_recording()

    def _end_recording(self) -> None:
        if self._recorder is not None:
            self._recorder.close()

    def _keep_recording(self) -> None:
        if self._recorder is not None:
            self._recorder.keep()

    def _seconds(self, timeout: Timeout) -> float | None:
        if timeout is DEFAULT:
            return self._timeout
        check_seconds("timeout", timeout)
        return timeout

    def _ask(
        self,
        command: c.Command,
        timeout: Timeout,
        uses: Iterable[str] = (),
        progress: Progress | None = None,
        profile: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Send a command and return its reply."""
        seconds = self._timeout if timeout is DEFAULT else self._seconds(timeout)
        fields = set_fields(command)
        call = Call(type(command), fields, seconds, uses, progress, self._stall_timeout)
        return self._perform(call) if profile is None else profiled(profile, call, self._perform)

    def _perform(self, call: Call, rebuild: Callable[[], dict[str, Any]] | None = None) -> Any:
        """Send a command; again if it came to nothing because the worker lacks a module of ours.

        Args:
            call: The command.
            rebuild: Makes the fields anew that hold pickles already.
        """
        while True:
            try:
                return self._session.ask(call)
            except RemoteError as error:
                module = missing_module(error)
                if module is None or module in self._pickles.by_value:
                    self._keep_recording()
                    raise
                if not self._session.share_path(call.deadline.left()):
                    self._pickles.by_value |= {module}
                if rebuild is not None:
                    call.fields |= rebuild()
            except SomaError:
                self._keep_recording()
                raise


def _given(**arguments: Any) -> dict[str, Any]:
    """Those of some arguments that were given; mappings as dicts."""
    return {
        name: dict(value) if isinstance(value, Mapping) else value
        for name, value in arguments.items()
        if value is not None
    }
