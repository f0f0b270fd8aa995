"""PoolVerbs: what each method of a pool asks of its workers, once for all kinds of pools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from soma_core.channel.deadline import NEVER, Deadline
from soma_core.client.arguments import as_node_ids, check_seconds
from soma_core.client.batched_fits import Metric
from soma_core.client.loadable import Loadable, check_filters
from soma_core.client.pool.batching import Batching
from soma_core.client.pool.blueprint import Blueprint
from soma_core.client.pool.call import PoolCall
from soma_core.client.progress.watch import Watch
from soma_core.client.results import BatchedFitResult, CompositeFitResult, NodeState
from soma_core.client.steps import Steps
from soma_core.client.timeouts import DEFAULT, Timeout
from soma_core.client.verbs.verbs import Verbs
from soma_core.models.filters import FilterMeta
from soma_core.protocol.commands import Method, StateFormat

__all__ = ["PoolVerbs", "Request"]

T = TypeVar("T")


@dataclass(frozen=True)
class Request(Generic[T]):
    """What a method of a pool asks of one worker.

    Attributes:
        run: Does it.
        commit: Called with the result if that changed the worker: makes the change one of the
            blueprint, and returns the version of that. Changes are made one after the other.
        replace_on_error: Whether a worker for which it fails may be half changed.
    """

    run: Callable[[Verbs], Steps[T]]
    commit: Callable[[T], int] | None = None
    replace_on_error: bool = False


class PoolVerbs:
    """Makes the calls of a pool.

    Args:
        blueprint: What the workers hold.
        batching: How calls are joined; None if they are not.
    """

    def __init__(self, blueprint: Blueprint, batching: Batching | None) -> None:
        self._blueprint, self._batching = blueprint, batching

    def forward(
        self,
        node_id: str | Sequence[str],
        x: Any,
        state: Any,
        timeout: Timeout,
        deadline: float | None = None,
        priority: int = 0,
    ) -> PoolCall:
        """A call that runs a node, or a chain of nodes."""
        if type(priority) is bool or not isinstance(priority, int):
            raise TypeError(f"priority is a whole number, got {priority!r}")
        seconds = self._blueprint.timeout
        if timeout is not DEFAULT:
            check_seconds("timeout", timeout)
            seconds = timeout
        if deadline is not None:
            check_seconds("deadline", deadline)
        end = NEVER if deadline is None else Deadline.after(deadline)

        def run(verbs: Verbs) -> Steps[Any]:
            left = seconds if end.at is None else end.within(seconds).left()
            if isinstance(node_id, str):
                return verbs.forward(node_id, x, state, timeout=left)
            return verbs.composite_forward(node_id, x, state, timeout=left)

        node_ids = (node_id,) if isinstance(node_id, str) else tuple(node_id)
        label = node_id if isinstance(node_id, str) else " > ".join(node_ids)
        joinable = None
        if self._batching is not None and state is None:
            joinable = self._batching.joinable(node_ids, x, seconds, self._blueprint.metas)
        return PoolCall(
            run, label=label, priority=priority, deadline=end, joinable=joinable, ahead=True
        )

    def fit(
        self,
        node_id: str,
        x: Any,
        y: Any = None,
        *,
        return_state: bool = True,
        progress: Watch = None,
        timeout: Timeout = DEFAULT,
    ) -> Request[Any]:
        """Fit one node in one worker, and give every worker what it learned.

        Calls that are submitted afterwards use it, in whichever worker. The worker of a fit that
        fails is replaced, since the filter may be half changed.

        Args:
            node_id: The node.
            x: The training data.
            y: The targets, or None.
            return_state: Whether to return the state.
            progress: Called with what the filter reports while it runs, on a thread of the pool, or
                in the event loop of an AsyncWorkerPool; True shows it on stderr.
            timeout: Seconds, once a worker has taken it.

        Returns:
            The state, or None with ``return_state=False``.
        """

        def fit(verbs: Verbs) -> Steps[Any]:
            return verbs.fit(
                node_id, x, y, return_state=return_state, progress=progress, timeout=timeout
            )

        return self._train(fit, [node_id], timeout, full=False)

    def partial_fit(
        self,
        node_id: str,
        x: Any,
        y: Any = None,
        *,
        return_state: bool = True,
        progress: Watch = None,
        timeout: Timeout = DEFAULT,
    ) -> Request[Any]:
        """Let one node go on from what it learned, and give every worker what it learned.

        The arguments mean what they do for :meth:`Worker.partial_fit`.
        """

        def fit(verbs: Verbs) -> Steps[Any]:
            return verbs.partial_fit(
                node_id, x, y, return_state=return_state, progress=progress, timeout=timeout
            )

        return self._train(fit, [node_id], timeout)

    def predict(
        self, node_id: str, x: Any, state: Any = None, *, timeout: Timeout = DEFAULT
    ) -> Request[Any]:
        """Call a node's ``predict`` in one worker, as :meth:`Worker.predict`."""
        return Request(lambda verbs: verbs.predict(node_id, x, state, timeout=timeout))

    def predict_proba(
        self, node_id: str, x: Any, state: Any = None, *, timeout: Timeout = DEFAULT
    ) -> Request[Any]:
        """Call a node's ``predict_proba`` in one worker, as :meth:`Worker.predict_proba`."""
        return Request(lambda verbs: verbs.predict_proba(node_id, x, state, timeout=timeout))

    def transform(
        self, node_id: str, x: Any, state: Any = None, *, timeout: Timeout = DEFAULT
    ) -> Request[Any]:
        """Call a node's ``transform`` in one worker, as :meth:`Worker.transform`."""
        return Request(lambda verbs: verbs.transform(node_id, x, state, timeout=timeout))

    def score(
        self, node_id: str, x: Any, y: Any = None, state: Any = None, *, timeout: Timeout = DEFAULT
    ) -> Request[Any]:
        """Call a node's ``score`` in one worker, as :meth:`Worker.score`."""
        return Request(lambda verbs: verbs.score(node_id, x, y, state, timeout=timeout))

    def call_method(
        self,
        method: Method,
        node_id: str,
        x: Any,
        y: Any = None,
        *,
        state: Any = None,
        timeout: Timeout = DEFAULT,
    ) -> Request[Any]:
        """Call a method of a node by its name, as :meth:`Worker.call_method`."""
        return Request(
            lambda verbs: verbs.call_method(method, node_id, x, y, state=state, timeout=timeout)
        )

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
    ) -> Request[CompositeFitResult]:
        """Fit a chain in one worker, and give every worker what its nodes learned.

        Optimizers and random numbers go along, so that the next call goes on as if it ran in the
        same worker. The arguments mean what they do for :meth:`Worker.composite_fit`.
        """

        def fit(verbs: Verbs) -> Steps[CompositeFitResult]:
            return verbs.composite_fit(
                node_ids,
                x,
                y,
                return_states=return_states,
                optimizer=optimizer,
                progress=progress,
                timeout=timeout,
            )

        return self._train(fit, node_ids, timeout)

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
        progress: Watch = None,
        timeout: Timeout = DEFAULT,
    ) -> Request[BatchedFitResult]:
        """Fit a chain batch by batch in one worker, and give every worker what its nodes learned.

        Optimizers and random numbers go along. The arguments mean what they do for
        :meth:`Worker.batched_fit`, which has ``on_epoch`` and ``profile`` as well.
        """

        def fit(verbs: Verbs) -> Steps[BatchedFitResult]:
            return verbs.batched_fit(
                node_ids,
                x,
                y,
                batch_size=batch_size,
                epochs=epochs,
                shuffle=shuffle,
                seed=seed,
                collect=collect,
                return_states=return_states,
                optimizer=optimizer,
                resume=resume,
                validation=validation,
                metrics=metrics,
                patience=patience,
                restore_best=restore_best,
                progress=progress,
                timeout=timeout,
            )

        return self._train(fit, node_ids, timeout)

    def compute_gradients(
        self, node_ids: Sequence[str], x: Any, y: Any, *, timeout: Timeout = DEFAULT
    ) -> Request[tuple[float, dict[str, bytes]]]:
        """The loss of a chain on one batch and its gradients, as :meth:`Worker.compute_gradients`.

        Nothing is fitted or stepped.
        """
        return Request(lambda verbs: verbs.compute_gradients(node_ids, x, y, timeout=timeout))

    def call(
        self,
        cmd: str,
        fields: Mapping[str, Any] | None = None,
        *,
        changes_states: bool = False,
        progress: Watch = None,
        timeout: Timeout = DEFAULT,
    ) -> Request[Any]:
        """Send a command that a plugin of the workers added, to one of them.

        Args:
            cmd: Its name: ``"EVALUATE"``.
            fields: The fields of the command, user data as Python objects.
            changes_states: Whether the command changes what its nodes (``node_id``, ``node_ids``)
                learned: every worker is then given that.
            progress: As for :meth:`fit`.
            timeout: Seconds, once a worker has taken it.

        Returns:
            What the handler returned.

        Raises:
            ValueError: It is one of soma's own commands, each of which has a method.
        """
        given = dict(fields or {})

        def ask(verbs: Verbs) -> Steps[Any]:
            return verbs.call(
                cmd, given, changes_states=changes_states, progress=progress, timeout=timeout
            )

        if not changes_states:
            return Request(ask)
        named = [*given.get("node_ids", ()), given.get("node_id")]
        return self._train(ask, [node_id for node_id in named if node_id is not None], timeout)

    def get_state(
        self,
        node_id: str,
        *,
        format: StateFormat | None = None,
        full: bool = False,
        timeout: Timeout = DEFAULT,
    ) -> Request[NodeState]:
        """What the object of a node holds, and what the node learned; the same in every worker.

        The arguments are those of :meth:`Worker.get_state`.
        """
        return Request(
            lambda verbs: verbs.get_state(node_id, format=format, full=full, timeout=timeout)
        )

    def set_state(
        self, node_id: str, state: NodeState, *, timeout: Timeout = DEFAULT
    ) -> Request[None]:
        """Give every worker what :meth:`get_state` returned, of this pool or of a Worker.

        Raises:
            RemoteError: It does not fit; then no worker has it.
        """
        if not isinstance(state, NodeState):
            raise TypeError(f"state is a NodeState, from get_state; got {type(state).__name__}")
        blueprint = self._blueprint
        return Request(
            lambda verbs: verbs.set_state(node_id, state, timeout=timeout),
            lambda _: blueprint.set_states({node_id: state}),
        )

    def load(
        self,
        filters: Mapping[str, Loadable],
        *,
        trainable: bool | Mapping[str, bool] = True,
        timeout: Timeout = DEFAULT,
    ) -> Request[dict[str, FilterMeta]]:
        """Load filters into every worker, as :meth:`Worker.load` does.

        Raises:
            TypeError: An object is not a filter, or ``filters`` no dict.
            RemoteError: One could not be loaded; then no worker has any of them.
        """
        check_filters(filters)
        blueprint, kept = self._blueprint, dict(filters)
        return Request(
            lambda verbs: verbs.load(kept, trainable=trainable, timeout=timeout),
            lambda metas: blueprint.load(kept, trainable, metas),
        )

    def unload(self, node_ids: Iterable[str], *, timeout: Timeout = DEFAULT) -> Request[None]:
        """Have every worker forget nodes and what they learned, all or none."""
        blueprint, gone = self._blueprint, as_node_ids(node_ids, in_order=False)
        return Request(
            lambda verbs: verbs.unload(gone, timeout=timeout), lambda _: blueprint.unload(gone)
        )

    def _train(
        self,
        train: Callable[[Verbs], Steps[T]],
        node_ids: Sequence[str],
        timeout: Timeout,
        *,
        full: bool = True,
    ) -> Request[T]:
        """Train nodes in one worker, and give every worker what they learned.

        Args:
            train: Trains them.
            node_ids: The nodes.
            timeout: Seconds to fetch the state of each.
            full: Whether optimizers and random numbers go along.
        """
        blueprint = self._blueprint
        learned: dict[str, NodeState] = {}

        def run(verbs: Verbs) -> Steps[T]:
            result = yield from train(verbs)
            for node_id in node_ids:
                learned[node_id] = yield from verbs.get_state(node_id, full=full, timeout=timeout)
            return result

        return Request(run, lambda _: blueprint.set_states(learned), replace_on_error=True)
