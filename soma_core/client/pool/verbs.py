"""PoolVerbs: what each method of a pool asks of its workers, once for all kinds of pools."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from inspect import signature
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from soma_core.channel.deadline import NEVER, Deadline
from soma_core.client.arguments import as_node_ids, check_seconds
from soma_core.client.loadable import Loadable, check_filters
from soma_core.client.pool.batching import Batching
from soma_core.client.pool.blueprint import Blueprint
from soma_core.client.pool.call import PoolCall
from soma_core.client.progress.watch import Watch
from soma_core.client.results import NodeState
from soma_core.client.signatures import binding_error
from soma_core.client.steps import Steps
from soma_core.client.timeouts import DEFAULT, Timeout
from soma_core.client.verbs.verbs import Verbs
from soma_core.models.filters import FilterMeta

__all__ = ["PoolVerbs", "Request"]

P = ParamSpec("P")
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

    def call(self, blueprint: Blueprint) -> PoolCall:
        """The call that does it."""
        return PoolCall(
            self.run,
            context=blueprint.context(),
            commit=self.commit,
            replace_on_error=self.replace_on_error,
        )


def _asking(
    verb: Callable[Concatenate[Verbs, P], Steps[T]],
) -> Callable[Concatenate[PoolVerbs, P], Request[T]]:
    """The request for a verb that changes nothing in the worker that does it."""

    @wraps(verb)
    def method(self: PoolVerbs, /, *args: P.args, **kwargs: P.kwargs) -> Request[T]:
        _by_name(verb, args, kwargs)
        return Request(lambda verbs: verb(verbs, *args, **kwargs))

    return method


def _training(
    verb: Callable[Concatenate[Verbs, P], Steps[T]], *, full: bool = True
) -> Callable[Concatenate[PoolVerbs, P], Request[T]]:
    """The request for a verb that trains nodes, whose states every worker is given then.

    Args:
        verb: The verb.
        full: Whether optimizers and random numbers go along.
    """

    @wraps(verb)
    def method(self: PoolVerbs, /, *args: P.args, **kwargs: P.kwargs) -> Request[T]:
        given = _by_name(verb, args, kwargs)
        node_ids = given["node_ids"] if "node_ids" in given else [given["node_id"]]
        timeout = given.get("timeout", DEFAULT)
        return self.train(lambda verbs: verb(verbs, *args, **kwargs), node_ids, timeout, full=full)

    return method


def _by_name(verb: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a verb by name.

    Raises:
        TypeError: It does not take them: said here, and not by a worker.
    """
    try:
        return _signature(verb).bind(None, *args, **kwargs).arguments
    except TypeError as error:
        told = TypeError(f"{verb.__qualname__}() {error}")
        raise binding_error(f"WorkerPool.{verb.__name__}", verb, told) from None


_signature = cache(signature)


def _chain(node_ids: Sequence[str]) -> tuple[str, ...]:
    """The nodes of a chain, in order.

    Raises:
        TypeError: One is no text, or they have no order.
    """
    for node_id in (chain := tuple(as_node_ids(node_ids))):
        if not isinstance(node_id, str):
            raise TypeError(f"node_ids is a list of node ids, got {node_id!r} among them")
    return chain


class PoolVerbs:
    """Makes the calls of a pool; :class:`~soma_core.WorkerPool` says what they change.

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

        node_ids = (node_id,) if isinstance(node_id, str) else _chain(node_id)
        label = node_id if isinstance(node_id, str) else " > ".join(node_ids)
        joinable = None
        if self._batching is not None and state is None:
            joinable = self._batching.joinable(node_ids, x, seconds, self._blueprint.metas)
        return PoolCall(
            run,
            context=self._blueprint.context(),
            label=label,
            priority=priority,
            deadline=end,
            joinable=joinable,
            ahead=True,
        )

    predict = _asking(Verbs.predict)
    predict_proba = _asking(Verbs.predict_proba)
    transform = _asking(Verbs.transform)
    score = _asking(Verbs.score)
    call_method = _asking(Verbs.call_method)
    compute_gradients = _asking(Verbs.compute_gradients)
    get_state = _asking(Verbs.get_state)
    save_checkpoint = _asking(Verbs.save_checkpoint)
    list = _asking(Verbs.list)
    ping = _asking(Verbs.ping)
    fit = _training(Verbs.fit, full=False)
    partial_fit = _training(Verbs.partial_fit)
    composite_fit = _training(Verbs.composite_fit)
    batched_fit = _training(Verbs.batched_fit)

    def call(
        self,
        cmd: str,
        fields: Mapping[str, Any] | None = None,
        *,
        changes_states: bool = False,
        progress: Watch = None,
        timeout: Timeout = DEFAULT,
    ) -> Request[Any]:
        """Send a command that a plugin of the workers added to one of them, as :meth:`Worker.call`.

        ``changes_states`` says that it changes what its nodes (``node_id``, ``node_ids``) learned.
        """
        given = dict(fields or {})

        def ask(verbs: Verbs) -> Steps[Any]:
            return verbs.call(
                cmd, given, changes_states=changes_states, progress=progress, timeout=timeout
            )

        if not changes_states:
            return Request(ask)
        named = [*given.get("node_ids", ()), given.get("node_id")]
        node_ids = [node_id for node_id in named if node_id is not None]
        return self.train(ask, node_ids, timeout)

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

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        *,
        force: bool = False,
        timeout: Timeout = DEFAULT,
    ) -> Request[None]:
        """Put into every worker what :meth:`save_checkpoint` wrote, of this pool or of a Worker.

        The arguments and errors are those of :meth:`Worker.load_checkpoint`.
        """
        return self.train(
            lambda verbs: verbs.load_checkpoint(path, force=force, timeout=timeout),
            self._blueprint.node_ids,
            timeout,
        )

    def run_segment(
        self, segment: Sequence[str], x: Any, *, learns: bool, timeout: Timeout
    ) -> Request[Any]:
        """Run a chunk through a part of a chain, whose nodes may learn from it first."""

        def run(verbs: Verbs) -> Steps[Any]:
            return verbs.run_segment(segment, x, learns=learns, timeout=timeout)

        return self.train(run, segment, timeout) if learns else Request(run)

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

    def train(
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
