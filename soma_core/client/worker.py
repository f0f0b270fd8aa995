"""Worker: the host's handle on one engine."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

from soma_core.channel.contract import ExitStatus, Transport
from soma_core.client.calls import Build, Call, Progress, Reply
from soma_core.client.checkpoint import Saved, read_checkpoint, write_checkpoint
from soma_core.client.chunks import stream
from soma_core.client.loadable import Loadable, adapt, check_filter
from soma_core.client.missing_modules import missing_module
from soma_core.client.progress.watch import Watch, watched
from soma_core.client.recording import Recorder
from soma_core.client.recovery import FilterSource, Ledger
from soma_core.client.recurring_commands import write_composite_fit, write_forward
from soma_core.client.remote_filter import RemoteFilter
from soma_core.client.restarts import Incarnations
from soma_core.client.results import (
    BatchedFitResult,
    CompositeFitResult,
    NodeState,
    Pong,
    WorkerStatus,
)
from soma_core.client.usage import process_usage
from soma_core.errors import RemoteError, SomaError
from soma_core.models.chains import ChainNode, check_chain
from soma_core.models.filters import FilterMeta, StreamMode
from soma_core.plugins.manager import installed_plugins, known_codecs
from soma_core.protocol.commands import COMMANDS, StateFormat
from soma_core.protocol.parsing import verb_of
from soma_core.wire.codec import FrameEncoder
from soma_core.wire.json_text import write_json
from soma_core.wire.pickles import Pickles

__all__ = ["DEFAULT", "Timeout", "Worker", "check_recovery"]

T = TypeVar("T")

_CLOSE_GRACE = 2.0
_OWN_VERBS = {verb_of(model): verb_of(model).lower() for model in COMMANDS}
_OWN_VERBS |= {"HELLO": "ping", "LIST": "node_ids"}


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
    ) -> None:
        check_recovery(restart, retries)
        self._transport = transport
        self._recorder = recorder
        self._timeout = timeout
        self._stall_timeout = stall_timeout
        allowed = transport.options.pickle != "never"
        self._pickles = Pickles(allowed=allowed, codecs=known_codecs())
        self._ledger = Ledger(self._pickles) if restart == "on-crash" else None
        self._metas: dict[str, FilterMeta] = {}
        self._registered: set[str] = set()
        self._exit_told = False
        self._incarnations = Incarnations(
            transport,
            self._pickles,
            start_timeout=start_timeout,
            recorder=recorder,
            ledger=self._ledger,
            retries=retries,
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
        incarnations = self._incarnations
        closed = incarnations.conversation.closed
        state = "closed" if closed else f"pid {incarnations.hello.pid}"
        return f"<Worker over {self._transport.name}, {state}, nodes {list(self._metas)}>"

    @property
    def node_ids(self) -> list[str]:
        """The ids of the nodes that this worker loaded."""
        return list(self._metas)

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
        adapted = {node_id: adapt(obj) for node_id, obj in filters.items()}
        for node_id, filter_like in adapted.items():
            check_filter(node_id, filter_like)
        sources: list[FilterSource] = []

        def build(encoder: FrameEncoder) -> dict[str, Any]:
            sources[:] = [self._source(*item, trainable) for item in adapted.items()]
            return {"filters": [source.spec(encoder) for source in sources]}

        reply = self._ask("LOAD", build, timeout)
        metas = {
            node_id: FilterMeta.model_validate(meta)
            for node_id, meta in reply.required("filters").items()
        }
        self._metas.update(metas)
        named = {node_id for node_id, item in adapted.items() if isinstance(item, str | tuple)}
        self._registered = (self._registered - adapted.keys()) | named
        if self._ledger is not None:
            self._ledger.loaded(sources, metas)
        return metas

    def _source(
        self, node_id: str, filter_like: Loadable, trainable: bool | Mapping[str, bool]
    ) -> FilterSource:
        flag = trainable if isinstance(trainable, bool) else trainable.get(node_id, True)
        if isinstance(filter_like, str):
            return FilterSource(node_id, flag, name=filter_like)
        if isinstance(filter_like, tuple):
            name, config = filter_like
            return FilterSource(node_id, flag, name=name, config=write_json(config))
        return FilterSource(node_id, flag, pickle=self._pickles.dump(filter_like))

    def unload(self, node_ids: Iterable[str], *, timeout: Timeout = DEFAULT) -> None:
        """Forget nodes and what they learned, all or none."""
        ids = list(node_ids)
        self._ask("UNLOAD", lambda _: {"node_ids": ids}, timeout)
        for node_id in ids:
            self._metas.pop(node_id, None)
        if self._ledger is not None:
            self._ledger.unloaded(ids)

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
        """Fit one node; the state that it learned is its own from then on.

        Args:
            node_id: The node.
            x: The training data.
            y: The targets, or None.
            return_state: Whether the state travels back.
            progress: Called with what the filter reports while it runs; True shows it on stderr,
                as a bar in a terminal and as lines elsewhere.
            timeout: Seconds.

        Returns:
            The state, or None with ``return_state=False``.
        """

        def build(encoder: FrameEncoder) -> dict[str, Any]:
            return {
                "node_id": node_id,
                "data": encoder.encode(x),
                "y": encoder.encode(y),
                "return_state": return_state,
            }

        ledger = self._ledger
        uses = () if ledger is None else ledger.differentiable([node_id])
        with watched(progress, [node_id], x) as told:
            reply = self._ask("FIT", build, timeout, node_id=node_id, node_ids=uses, progress=told)
        if not return_state:
            self._changed([node_id], "fit")
            return None
        state = reply.state("result")
        if ledger is not None:
            ledger.learned(node_id, state)
        return state

    def forward(
        self,
        node_id: str,
        x: Any,
        state: Any = None,
        *,
        progress: Progress | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Any:
        """Run one node.

        Args:
            node_id: The node.
            x: The input.
            state: The state to use; None means what the node learned last (``{}`` if nothing).
            progress: Called with what the filter, or a plugin around it, reports.
            timeout: Seconds.
        """
        seconds = self._timeout if timeout is DEFAULT else timeout
        uses = (node_id,) if state is None else ()
        call = Call("FORWARD", None, seconds, node_id, uses, progress, self._stall_timeout)
        if state is None:
            write_forward(call, node_id, x)
        if call.text is None:
            call.build = _forward(node_id, x, state)
        return self._perform(call).data("result")

    def composite_forward(
        self,
        node_ids: Sequence[str],
        x: Any,
        states: Mapping[str, Any] | None = None,
        *,
        progress: Progress | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Any:
        """Run a chain of nodes, the output of each being the input of the next.

        Args:
            node_ids: The nodes in order, at least one.
            x: The input of the first.
            states: States by node id; a node without one uses what it learned last.
            progress: As for :meth:`forward`.
            timeout: Seconds.
        """

        def build(encoder: FrameEncoder) -> dict[str, Any]:
            fields: dict[str, Any] = {"node_ids": list(node_ids), "data": encoder.encode(x)}
            if states is not None:
                fields["states"] = {key: encoder.encode(state) for key, state in states.items()}
            return fields

        reply = self._ask("COMPOSITE_FORWARD", build, timeout, node_ids=node_ids, progress=progress)
        return reply.data("result")

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
        metas = {key: self._metas.get(key, FilterMeta(name=key)) for key in node_ids}
        check_chain(ChainNode.of(node_id, metas[node_id]) for node_id in node_ids)
        modes = {node_id: self._metas[node_id].stream_mode for node_id in self._metas}
        evolving = {key for key, mode in modes.items() if mode is StreamMode.EVOLVING}
        barriers = {key for key, mode in modes.items() if mode is StreamMode.BARRIER}

        def run(segment: Sequence[str], x: Any) -> Any:
            def build(encoder: FrameEncoder) -> dict[str, Any]:
                fields = {"node_ids": list(segment), "data": encoder.encode(x)}
                return {**fields, "evolve": True} if evolving & set(segment) else fields

            reply = self._ask("COMPOSITE_FORWARD", build, timeout, node_ids=segment)
            self._changed([key for key in segment if key in evolving], "stream")
            return reply.data("result")

        return stream(list(node_ids), chunks, barriers, run)

    def composite_fit(
        self,
        node_ids: Sequence[str],
        x: Any,
        y: Any = None,
        *,
        return_states: bool = True,
        optimizer: Mapping[str, Any] | None = None,
        progress: Watch = None,
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
            timeout: Seconds.
        """

        def build(encoder: FrameEncoder) -> dict[str, Any]:
            fields = {
                "node_ids": list(node_ids),
                "data": encoder.encode(x),
                "y": encoder.encode(y),
                "return_states": return_states,
            }
            return fields if optimizer is None else {**fields, "optimizer": dict(optimizer)}

        with watched(progress, node_ids, x) as told:
            call = self._call("COMPOSITE_FIT", build, timeout, node_ids=node_ids, progress=told)
            if optimizer is None:
                write_composite_fit(call, node_ids, x, y, return_states)
            reply = self._perform(call)
        result = CompositeFitResult(
            result=reply.data("result"),
            states=reply.binaries("states"),
            fit_states=reply.states("fit_states"),
            loss=reply.required("loss"),
        )
        self._changed(node_ids, "composite_fit")
        if self._ledger is not None and return_states:
            for node_id, state in result.fit_states.items():
                self._ledger.learned(node_id, state)
            for node_id, data in result.states.items():
                self._ledger.holds(node_id, data, "torch")
        return result

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

        def build(encoder: FrameEncoder) -> dict[str, Any]:
            return {
                "node_ids": list(node_ids),
                "data": encoder.encode(x),
                "y": encoder.encode(y),
                "step": False,
            }

        reply = self._ask("COMPOSITE_FIT", build, timeout, node_ids=node_ids)
        return reply.required("loss"), reply.binaries("gradients")

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
        progress: Watch = None,
        timeout: Timeout = DEFAULT,
    ) -> BatchedFitResult:
        """Fit a chain of nodes batch by batch; the data travels once.

        Args:
            node_ids: The nodes in order, at least one.
            x: The training data: rows, or columns of rows in a dict.
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
            progress: Called after each batch with epoch, epochs, batch, batches, its loss, and
                the mean_loss of the epoch so far; True shows it on stderr, as a bar in a
                terminal and as lines elsewhere.
            timeout: Seconds.
        """

        def build(encoder: FrameEncoder) -> dict[str, Any]:
            fields: dict[str, Any] = {
                "node_ids": list(node_ids),
                "data": encoder.encode(x),
                "y": encoder.encode(y),
                "batch_size": batch_size,
                "epochs": epochs,
                "shuffle": shuffle,
                "collect": collect,
                "return_states": return_states,
            }
            if optimizer is not None:
                fields["optimizer"] = dict(optimizer)
            return fields if seed is None else {**fields, "seed": seed}

        with watched(progress, node_ids, x) as told:
            reply = self._ask("BATCHED_FIT", build, timeout, node_ids=node_ids, progress=told)
        result = BatchedFitResult(
            result=reply.data("result"),
            states=reply.states("states"),
            losses=reply.required("losses"),
        )
        self._changed(node_ids, "batched_fit")
        if self._ledger is not None and return_states:
            for node_id, state in result.states.items():
                self._ledger.learned(node_id, state)
        return result

    def get_state(
        self,
        node_id: str,
        *,
        format: StateFormat | None = None,
        full: bool = False,
        timeout: Timeout = DEFAULT,
    ) -> NodeState:
        """Fetch what a node's object holds, and what the node learned.

        Args:
            node_id: The node.
            format: How to write it; None chooses ``torch`` for what has a ``state_dict``, else
                ``cloudpickle``, or ``value`` where pickle is off.
            full: Whether optimizers, schedulers and random numbers come with it, so that
                training resumed from it equals training that never stopped.
            timeout: Seconds.
        """

        def build(encoder: FrameEncoder) -> dict[str, Any]:
            fields: dict[str, Any] = {"node_id": node_id}
            fields |= {"format": format} if format else {}
            return fields | ({"full": True} if full else {})

        reply = self._ask("GET_STATE", build, timeout, node_id=node_id, node_ids=(node_id,))
        state = NodeState(
            data=reply.binary("state_b64"),
            format=reply.required("format"),
            fit_state=reply.state("fit_state"),
            training=reply.binary("training_b64") if full else None,
        )
        self._holds(node_id, state)
        return state

    def set_state(
        self,
        node_id: str,
        state: NodeState | bytes,
        *,
        format: StateFormat | None = None,
        timeout: Timeout = DEFAULT,
    ) -> None:
        """Put back what :meth:`get_state` returned.

        Args:
            node_id: The node.
            state: A NodeState; or bytes, which leave what the node learned as it is.
            format: How bytes are written; None as for :meth:`get_state`.
            timeout: Seconds.
        """

        def build(encoder: FrameEncoder) -> dict[str, Any]:
            data = state.data if isinstance(state, NodeState) else state
            chosen = state.format if isinstance(state, NodeState) else format
            fields = {"node_id": node_id, "state_b64": encoder.binary(data)}
            if chosen is not None:
                fields["format"] = chosen
            if isinstance(state, NodeState):
                fields["fit_state"] = encoder.encode(state.fit_state)
                if state.training is not None:
                    fields["training_b64"] = encoder.binary(state.training)
            return fields

        self._ask("SET_STATE", build, timeout, node_id=node_id)
        if isinstance(state, NodeState):
            self._holds(node_id, state)
        elif self._ledger is not None:
            self._ledger.holds(node_id, bytes(state), format)

    def save_checkpoint(self, path: str | os.PathLike[str], *, timeout: Timeout = DEFAULT) -> None:
        """Write the full states of all nodes to one file, which is replaced whole or not at all.

        Training that goes on from it equals training that never stopped. Parameters, optimizers
        and registered filters are in it without pickles; an object that was loaded as a pickle
        and is no module is a pickle in it too. No other thread should train meanwhile.

        Args:
            path: The file.
            timeout: Seconds for each node.

        Raises:
            OSError: It cannot be written.
        """
        nodes = {
            node_id: Saved(meta.name, self._full_state(node_id, timeout))
            for node_id, meta in self._metas.items()
        }
        write_checkpoint(Path(path), nodes, self._pickles)

    def _full_state(self, node_id: str, timeout: Timeout) -> NodeState:
        if node_id in self._registered:
            for format in ("torch", "value"):
                with suppress(RemoteError):  # then it has no state of that format
                    return self.get_state(node_id, format=format, full=True, timeout=timeout)
        return self.get_state(node_id, full=True, timeout=timeout)

    def load_checkpoint(self, path: str | os.PathLike[str], *, timeout: Timeout = DEFAULT) -> None:
        """Put back what :meth:`save_checkpoint` wrote, into all nodes or none.

        The worker must hold the same nodes, loaded before. Only read a file that you trust:
        it may hold pickles, which ``pickle="never"`` refuses.

        Args:
            path: The file.
            timeout: Seconds for each node.

        Raises:
            OSError: It cannot be read.
            ValueError: It is no checkpoint, or its nodes are not those of this worker.
        """
        saved = read_checkpoint(Path(path), self._pickles)
        here = {node_id: meta.name for node_id, meta in self._metas.items()}
        there = {node_id: item.filter for node_id, item in saved.items()}
        if here != there:
            raise ValueError(
                f"{os.fspath(path)} holds the nodes {there}, this worker {here} (filters by node "
                "id); load the same filters under the same ids first"
            )
        before = {node_id: self._full_state(node_id, timeout) for node_id in saved}
        done: list[str] = []
        try:
            for node_id, item in saved.items():
                self.set_state(node_id, item.state, timeout=timeout)
                done.append(node_id)
        except RemoteError:
            for node_id in done:
                self.set_state(node_id, before[node_id], timeout=timeout)
            raise

    def get_gradients(self, node_id: str, *, timeout: Timeout = DEFAULT) -> bytes:
        """Fetch the gradients of a node's parameters, as ``torch.save`` wrote them by name."""
        reply = self._ask(
            "GET_GRADIENTS",
            lambda _: {"node_id": node_id},
            timeout,
            node_id=node_id,
            node_ids=(node_id,),
        )
        return reply.binary("gradients_b64")

    def apply_gradients(
        self,
        node_id: str,
        gradients: bytes,
        *,
        optimizer: Mapping[str, Any] | None = None,
        timeout: Timeout = DEFAULT,
    ) -> list[str]:
        """Set the gradients of a node's parameters, all or none, and step its optimizer.

        Args:
            node_id: The node.
            gradients: What :meth:`get_gradients` returned, or ``torch.save`` of a dict by name.
            optimizer: As for :meth:`composite_fit`, over this node alone.
            timeout: Seconds.

        Returns:
            The names of the parameters that received a gradient.
        """

        def build(encoder: FrameEncoder) -> dict[str, Any]:
            fields = {"node_id": node_id, "gradients_b64": encoder.binary(gradients)}
            return fields if optimizer is None else {**fields, "optimizer": dict(optimizer)}

        reply = self._ask("APPLY_GRADIENTS", build, timeout, node_id=node_id, node_ids=(node_id,))
        self._changed([node_id], "apply_gradients")
        updated: list[str] = reply.required("updated")
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
            cmd: The verb: ``"EVALUATE"``.
            fields: The fields of the command, user data as Python objects.
            changes_states: Whether the command changes what its nodes learned: a restarted
                worker then raises StateLost rather than going on with older states.
            progress: Called with what the handler reports while it runs; True shows it.
            timeout: Seconds.

        Returns:
            What the handler returned.

        Raises:
            ValueError: The verb is one of soma's own, which has a method of its own.
        """
        if cmd in _OWN_VERBS:
            raise ValueError(f"{cmd} has a method of its own: Worker.{_OWN_VERBS[cmd]}")
        given = dict(fields or {})
        node_id = given.get("node_id")
        node_ids = [*given.get("node_ids", ()), *([] if node_id is None else [node_id])]

        def build(encoder: FrameEncoder) -> dict[str, Any]:
            return {name: encoder.encode(value) for name, value in given.items()}

        with watched(progress, [cmd], given.get("data")) as told:
            reply = self._ask(
                cmd, build, timeout, node_id=node_id, node_ids=node_ids, progress=told
            )
        if changes_states:
            self._changed(node_ids, cmd)
        return reply.data("result")

    def ping(self, *, timeout: Timeout = DEFAULT) -> Pong:
        """Ask the engine whether it answers."""
        reply = self._ask("PING", lambda _: {}, timeout)
        return Pong(reply.required("pid"), reply.required("incarnation"))

    def interrupt(self) -> None:
        """Interrupt the call that runs, from another thread; it raises RemoteError there."""
        self._incarnations.conversation.interrupt()

    def status(self) -> WorkerStatus:
        """What is known of the worker without asking it."""
        conversation, hello = self._incarnations.conversation, self._incarnations.hello
        running = conversation.running
        command, node_id, since = running or (None, None, 0.0)
        ended = conversation.closed or self._transport.poll() is not None
        here = not ended and self._transport.runs_here(hello.pid)
        cpu_seconds, memory_bytes = process_usage(hello.pid) if here else (None, None)
        return WorkerStatus(
            alive=not ended,
            pid=hello.pid,
            incarnation=hello.incarnation,
            command=command,
            node_id=node_id,
            seconds=time.monotonic() - since if running else 0.0,
            restarts=self._incarnations.restarts,
            cpu_seconds=cpu_seconds,
            memory_bytes=memory_bytes,
            plugins=conversation.told,
        )

    def filter(self, node_id: str) -> RemoteFilter:
        """A loaded node as a Filter of its own, for code that expects one.

        Raises:
            KeyError: This worker loaded no such node.
        """
        if node_id not in self._metas:
            raise KeyError(f"{node_id!r} is not loaded; loaded: {', '.join(self._metas) or 'none'}")
        return RemoteFilter.of(self, node_id, self._metas[node_id])

    def close(self) -> None:
        """End a private worker, or leave a shared one; from any thread, at most 5 s.

        A call that runs raises ChannelClosed. A second close does nothing, nor does one in a
        forked child: the worker is its parent's.
        """
        if self._incarnations.conversation.belongs_to_this_process:
            self._incarnations.close()
            self._tell_exit(self._transport.stop(_CLOSE_GRACE))
            self._end_recording()

    def _tell_exit(self, status: ExitStatus | None) -> None:
        if self._exit_told:
            return
        self._exit_told = True
        installed_plugins().notify(
            "soma_worker_exited",
            transport=self._transport.name,
            pid=self._incarnations.hello.pid,
            status=status,
        )

    def _changed(self, node_ids: Sequence[str], by: str) -> None:
        if self._ledger is not None:
            self._ledger.changed(node_ids, by)

    def _holds(self, node_id: str, state: NodeState) -> None:
        if self._ledger is not None:
            self._ledger.holds(node_id, bytes(state.data), state.format, state.training)
            self._ledger.holds_learned(node_id, state.fit_state)

    def shutdown(self) -> None:
        """End the worker, even one that other clients share."""
        conversation = self._incarnations.conversation
        if not conversation.belongs_to_this_process:
            return
        with suppress(SomaError, OSError):  # it is ended all the same, by force if it must be
            conversation.ask(Call("SHUTDOWN", None, _CLOSE_GRACE))
        self._incarnations.close()
        self._tell_exit(self._transport.shutdown(_CLOSE_GRACE))
        self._end_recording()

    def _end_recording(self) -> None:
        if self._recorder is not None:
            self._recorder.close()

    def _keep_recording(self) -> None:
        if self._recorder is not None:
            self._recorder.keep()

    def _ask(
        self,
        cmd: str,
        build: Build,
        timeout: Timeout,
        *,
        node_id: str | None = None,
        node_ids: Iterable[str] = (),
        progress: Progress | None = None,
    ) -> Reply:
        call = self._call(cmd, build, timeout, node_id, node_ids, progress)
        return self._perform(call)

    def _call(
        self,
        cmd: str,
        build: Build | None,
        timeout: Timeout,
        node_id: str | None = None,
        node_ids: Iterable[str] = (),
        progress: Progress | None = None,
    ) -> Call:
        seconds = self._timeout if timeout is DEFAULT else timeout
        return Call(cmd, build, seconds, node_id, node_ids, progress, self._stall_timeout)

    def _perform(self, call: Call) -> Reply:
        """Send a command; again if it came to nothing because the worker lacks a module of ours."""
        while True:
            by_value = self._pickles.by_value
            try:
                return self._incarnations.ask(call)
            except RemoteError as error:
                module = missing_module(error)
                if module is None or module in by_value:
                    self._keep_recording()
                    raise
                self._pickles.by_value |= {module}
                call = call.again()
            except SomaError:
                self._keep_recording()
                raise


def _forward(node_id: str, x: Any, state: Any) -> Build:
    def build(encoder: FrameEncoder) -> dict[str, Any]:
        fields = {"node_id": node_id, "data": encoder.encode(x)}
        if state is not None:
            fields["state"] = encoder.encode(state)
        return fields

    return build
