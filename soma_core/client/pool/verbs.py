"""PoolVerbs: what each method of a pool asks of its workers, once for all kinds of pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from inspect import signature
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from soma_core.channel.deadline import NEVER, Deadline
from soma_core.client.arguments import (
    DEFAULT,
    Meta,
    Timeout,
    as_node_ids,
    check_meta,
    check_seconds,
    fields_of,
)
from soma_core.client.loadable import check_filters
from soma_core.client.pool.batching import Batching
from soma_core.client.pool.blueprint import Blueprint
from soma_core.client.pool.call import SHORT, PoolCall
from soma_core.client.results import NodeState
from soma_core.client.steps import Steps
from soma_core.client.verbs.verbs import Verbs

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class PoolRequest(Generic[T]):
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


Run = Callable[[Verbs], Steps[Any]]
Make = Callable[["PoolVerbs", Run, dict[str, Any]], PoolRequest[Any]]
"""Makes the request, of what does it and of the arguments by name."""


def _requesting(
    verb: Callable[Concatenate[Verbs, P], Steps[T]], make: Make
) -> Callable[Concatenate[PoolVerbs, P], PoolRequest[T]]:
    """The method of a pool for a verb of its workers, with the arguments of that."""

    @wraps(verb)
    def method(self: PoolVerbs, /, *args: P.args, **kwargs: P.kwargs) -> PoolRequest[T]:
        given = _by_name(verb, args, kwargs)
        ask: Callable[..., Steps[T]] = verb
        return make(self, lambda verbs: ask(verbs, **given), given)

    return method


def _by_name(verb: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a verb by name.

    Raises:
        TypeError: It does not take them: said here, and not by a worker.
    """
    try:
        given = _signature(verb).bind(None, *args, **kwargs).arguments
    except TypeError as error:
        raise TypeError(f"{verb.__qualname__}() {error}") from None
    del given["self"]
    return given


_signature = cache(signature)


def _asking(
    verb: Callable[Concatenate[Verbs, P], Steps[T]],
) -> Callable[Concatenate[PoolVerbs, P], PoolRequest[T]]:
    """The request for a verb that changes nothing in the worker that does it."""
    return _requesting(verb, lambda _, run, given: PoolRequest(run))


def _training(
    verb: Callable[Concatenate[Verbs, P], Steps[T]], *, full: bool = True
) -> Callable[Concatenate[PoolVerbs, P], PoolRequest[T]]:
    """The request for a verb that trains nodes, whose states every worker is given then.

    Args:
        full: Whether optimizers and random numbers go along.
    """

    def make(self: PoolVerbs, run: Run, given: dict[str, Any]) -> PoolRequest[Any]:
        if "node_ids" in given:
            node_ids = given["node_ids"] = as_node_ids(given["node_ids"])
        else:
            node_ids = [given["node_id"]]
        return self.train(run, node_ids, given.get("timeout", DEFAULT), full=full)

    return _requesting(verb, make)


def _chain(node_ids: Sequence[str]) -> tuple[str, ...]:
    """The nodes of a chain, in order.

    Raises:
        TypeError: One is no text, or they have no order.
    """
    for node_id in (chain := tuple(as_node_ids(node_ids))):
        if not isinstance(node_id, str):
            raise TypeError(f"node_ids is a list of node ids, got {node_id!r} among them")
    return chain


@dataclass(slots=True, eq=False)
class _Forward:
    """Runs a node, or a chain, on a worker.

    It is one object where a function would be nine: many calls wait, and the garbage collector
    looks at all that each of them has.
    """

    asked: str | Sequence[str]
    node_ids: Sequence[str]
    x: Any
    state: Any
    meta: dict[str, Any] | None
    seconds: float | None
    end: Deadline

    def __call__(self, verbs: Verbs) -> Steps[Any]:
        seconds, end = self.seconds, self.end
        left = seconds if end.at is None else end.within(seconds).left()
        if isinstance(self.asked, str):
            return verbs.forward(self.asked, self.x, self.state, meta=self.meta, timeout=left)
        return verbs.composite_forward(
            self.node_ids, self.x, self.state, meta=self.meta, timeout=left
        )


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
        state: Any = None,
        *,
        timeout: Timeout = DEFAULT,
        deadline: float | None = None,
        priority: int = 0,
        meta: Meta = None,
    ) -> PoolCall:
        """Run one node, or a chain of nodes, as :meth:`submit`, and wait for the result."""
        if type(priority) is bool or not isinstance(priority, int):
            raise TypeError(f"priority is a whole number, got {priority!r}")
        seconds = self._blueprint.timeout
        if timeout is not DEFAULT:
            check_seconds("timeout", timeout)
            seconds = timeout
        if deadline is not None:
            check_seconds("deadline", deadline)
        carried = None if meta is None else check_meta(meta)
        end = NEVER if deadline is None else Deadline.after(deadline)
        node_ids = (node_id,) if isinstance(node_id, str) else _chain(node_id)
        label = " > ".join(node_ids)
        run = _Forward(node_id, node_ids, x, state, carried, seconds, end)
        joinable = None
        if self._batching is not None and state is None:
            joinable = self._batching.joinable(node_ids, x, seconds, self._blueprint.metas, carried)
        return PoolCall(
            run,
            context=self._blueprint.context(),
            label=label,
            priority=priority,
            deadline=end,
            joinable=joinable,
            ahead=(seconds is None or seconds > SHORT) and (deadline is None or deadline > SHORT),
        )

    def composite_forward(
        self,
        node_ids: Sequence[str],
        x: Any,
        states: Mapping[str, Any] | None = None,
        *,
        timeout: Timeout = DEFAULT,
        deadline: float | None = None,
        priority: int = 0,
        meta: Meta = None,
    ) -> PoolCall:
        """Run a chain of nodes, as :meth:`submit`, and wait for the result."""
        return self.forward(
            as_node_ids(node_ids),
            x,
            states,
            timeout=timeout,
            deadline=deadline,
            priority=priority,
            meta=meta,
        )

    def forward_each(
        self, node_id: str | Sequence[str], state: Any, **options: Any
    ) -> Callable[[Any], PoolCall]:
        """What makes the call for each of many inputs of a node, or of a chain."""
        nodes = node_id if isinstance(node_id, str) else _chain(node_id)
        return lambda x: self.forward(nodes, x, state, **options)

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

    def _call(self, run: Run, given: dict[str, Any]) -> PoolRequest[Any]:
        if not given.get("changes_states"):
            return PoolRequest(run)
        _, node_ids = fields_of(given["cmd"], given.get("fields"))
        return self.train(run, node_ids, given.get("timeout", DEFAULT))

    def _run_segment(self, run: Run, given: dict[str, Any]) -> PoolRequest[Any]:
        if not given["learns"]:
            return PoolRequest(run)
        return self.train(run, given["segment"], given["timeout"])

    def _load_checkpoint(self, run: Run, given: dict[str, Any]) -> PoolRequest[Any]:
        return self.train(run, self._blueprint.node_ids, given.get("timeout", DEFAULT))

    def _load(self, run: Run, given: dict[str, Any]) -> PoolRequest[Any]:
        check_filters(given["filters"])
        filters = given["filters"] = dict(given["filters"])
        trainable = given.get("trainable", True)
        return PoolRequest(run, lambda metas: self._blueprint.load(filters, trainable, metas))

    def _unload(self, run: Run, given: dict[str, Any]) -> PoolRequest[Any]:
        gone = given["node_ids"] = as_node_ids(given["node_ids"], in_order=False)
        return PoolRequest(run, lambda _: self._blueprint.unload(gone))

    call = _requesting(Verbs.call, _call)
    run_segment = _requesting(Verbs.run_segment, _run_segment)
    load_checkpoint = _requesting(Verbs.load_checkpoint, _load_checkpoint)
    load = _requesting(Verbs.load, _load)
    unload = _requesting(Verbs.unload, _unload)

    def set_state(
        self, node_id: str, state: NodeState, *, meta: Meta = None, timeout: Timeout = DEFAULT
    ) -> PoolRequest[None]:
        """Give every worker what :meth:`get_state` returned, of this pool or of a Worker.

        Raises:
            RemoteError: It does not fit; then no worker has it.
        """
        if not isinstance(state, NodeState):
            raise TypeError(f"state is a NodeState, from get_state; got {type(state).__name__}")
        blueprint = self._blueprint
        return PoolRequest(
            lambda verbs: verbs.set_state(node_id, state, meta=meta, timeout=timeout),
            lambda _: blueprint.set_states({node_id: state}),
        )

    def train(
        self,
        train: Callable[[Verbs], Steps[T]],
        node_ids: Sequence[str],
        timeout: Timeout,
        *,
        full: bool = True,
    ) -> PoolRequest[T]:
        """Train nodes in one worker, and give every worker what they learned.

        Args:
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

        return PoolRequest(run, lambda _: blueprint.set_states(learned), replace_on_error=True)
