"""Nodes: filters loaded under an id, with what they learned last."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from soma_core.engine.hints import hint_for_fit, hint_for_forward, hint_for_two_inputs
from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.calling import accepts
from soma_core.models.filters import Filter, FilterKind, FilterMeta
from soma_core.models.schema import Schema, SchemaMismatch
from soma_core.models.validation_errors import describe

_log = logging.getLogger("soma.engine")


class FilterFailed(Exception):
    """The user's code raised; the cause is chained.

    Attributes:
        node_id: The node, where there is one.
        cause: What it raised.
        hint: The mistake that this looks like, and what to do; empty if it looks like none.
    """

    def __init__(self, node_id: str | None, cause: BaseException) -> None:
        super().__init__(node_id, cause)
        self.node_id = node_id
        self.cause = cause
        self.hint = ""


class Misfit(ProtocolError):
    """``schema_mismatch``: a value at one side of a node is not what the node declares.

    Attributes:
        side: ``"input"`` or ``"output"``.
    """

    def __init__(self, message: str, *, node_id: str, side: str) -> None:
        super().__init__(
            ErrorCode.SCHEMA_MISMATCH, message, node_id=node_id, remote_type="SchemaMismatch"
        )
        self.side = side


_NONE = object()
_ARGUMENTS = {"fit": "self, x, y=None", "score": "self, x, y, state"}
_ARGUMENTS["partial_fit"] = _ARGUMENTS["score"]


class Node:
    """One loaded filter.

    Args:
        node_id: The id that the host gave it.
        obj: Any object with ``forward(x, state)``, and ``fit(x, y)`` if it learns.
        trainable: Whether the composite commands fit it.
        registered: The name under which it is registered, if it was loaded by that.

    Attributes:
        learned_inside: Whether it learned inside of its object, which then is all of its state:
            ``fit`` of an object that is no Filter returned None or the object itself.
        as_loaded: Puts its object back as it was loaded; None while nothing has changed it.

    Raises:
        ProtocolError: ``load_failed``: the object is not a filter.
    """

    def __init__(
        self, node_id: str, obj: Any, *, trainable: bool = True, registered: str | None = None
    ) -> None:
        self.node_id = node_id
        self.registered = registered
        self.trainable = trainable
        self._unlearned: dict[str, Any] = {}
        self._state: Any = self._unlearned
        self.hold(obj)
        self.learned_inside = False
        self.as_loaded: Callable[[], None] | None = None

    def hold(self, obj: Any) -> None:
        """Have an object from now on, and go by what it declares.

        Args:
            obj: The object; the node's own if what that declares may have changed.

        Raises:
            ProtocolError: ``load_failed``: it is not a filter.
        """
        self.obj = obj
        self.meta = _meta_of(self.node_id, obj, self.trainable)
        self._prepares = prepares(obj)
        self._prepared: tuple[Any, Any] = (None, _NONE)

    @property
    def state(self) -> Any:
        """What it learned last; ``{}`` if nothing."""
        return self._state

    @state.setter
    def state(self, state: Any) -> None:
        self._state = state
        self._prepared = (None, _NONE)

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow through it: its meta says so, or it holds torch parameters."""
        return self.meta.differentiable or _holds_parameters(self.obj)

    @property
    def fitted_apart(self) -> bool:
        """Whether a composite calls its ``fit``, instead of leaving it to the joint step."""
        if not self.trainable or self.trained_jointly:
            return False
        return callable(getattr(self.obj, "fit", None))

    @property
    def trained_jointly(self) -> bool:
        """Whether a composite trains it by the joint step alone."""
        return Filter in type(self.obj).__mro__ and self.differentiable

    def forget(self) -> None:
        """Have learned nothing, as when it was loaded."""
        self.state, self.learned_inside = self._unlearned, False

    def fit(self, x: Any, y: Any, lengths: dict[str, int]) -> Any:
        """Call ``fit``, and keep the state that it returns.

        Args:
            x: The data.
            y: The targets, or None.
            lengths: As for :meth:`forward`.

        Raises:
            FilterFailed: It raised.
            Misfit: The input is not what it declares.
            ProtocolError: There is no ``fit``.
        """
        self._check("input", self.meta.input_schema, x, lengths)
        fit = self._method("fit")
        try:
            self._learn(self.call(fit, x, y))
        except FilterFailed as failed:
            failed.hint = hint_for_fit(fit, y, failed.cause)
            raise
        return self.state

    def partial_fit(self, x: Any, y: Any, state: Any, lengths: dict[str, int]) -> Any:
        """Like :meth:`fit`, going on from a state.

        Args:
            x: The data.
            y: The targets, or None.
            state: Where it goes on from.
            lengths: As for :meth:`forward`.
        """
        self._check("input", self.meta.input_schema, x, lengths)
        self._learn(self.call(self._method("partial_fit"), x, y, state))
        return self.state

    def _learn(self, state: Any) -> None:
        self.state = state
        self.learned_inside = (state is None or state is self.obj) and not isinstance(
            self.obj, Filter
        )

    def forward(self, x: Any, state: Any, lengths: dict[str, int], *, raw: bool = False) -> Any:
        """Call ``forward``, or ``raw_output`` where that is asked for and there is one.

        Args:
            x: The data.
            state: The state to run with, such as :attr:`state`.
            lengths: Of each named dimension that is known by now, ``{}`` for a call alone; those
                found here are added.
            raw: Whether a chain goes on from here by gradients.

        Raises:
            FilterFailed: It raised.
            Misfit: The input or the output is not what it declares.
        """
        meta = self.meta
        if meta.input_schema is not None:
            self._check("input", meta.input_schema, x, lengths)
        own = getattr(self.obj, "raw_output", None) if raw else None
        given = (x, state) if own or not self._prepares else (x, state, self._prepare(state))
        try:
            out = self.call(own or self._method("forward"), *given)
        except FilterFailed as failed:
            learns, unlearned = meta.kind is not FilterKind.STATELESS, state is self._unlearned
            failed.hint = hint_for_forward(failed.cause, state, unlearned and learns)
            if not learns and unlearned and not failed.hint:
                failed.hint = hint_for_two_inputs(self._method("forward"), failed.cause)
            raise
        if meta.output_schema is not None and own is None:
            self._check("output", meta.output_schema, self._without_auxiliary(out), lengths)
        return out

    def _prepare(self, state: Any) -> Any:
        """What ``prepare`` makes of a state: once of that which was learned, anew of another.

        Raises:
            FilterFailed: It raised.
        """
        obj, prepared = self._prepared
        if state is not self._state or obj is not self.obj or prepared is _NONE:
            prepared = self.call(self.obj.prepare, state)
            if state is self._state:
                self._prepared = (self.obj, prepared)
        return prepared

    def call_method(self, name: str, x: Any, y: Any, state: Any) -> Any:
        """Call another method that answers.

        Args:
            name: The method, such as ``predict``.
            x: The data.
            y: The targets; only ``score`` is given them.
            state: The state to run with.

        Raises:
            FilterFailed: It raised.
            Misfit: The input is not what the node declares.
            ProtocolError: There is no such method.
        """
        self._check("input", self.meta.input_schema, x, {})
        method, arguments = self._method(name), [x, y, state] if name == "score" else [x, state]
        if self._prepares and accepts(method, *arguments, None):
            arguments.append(self._prepare(state))
        return self.call(method, *arguments)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the user's code; the one place where its exceptions become ours.

        Args:
            function: A method of the filter.
            args: Its arguments.

        Raises:
            FilterFailed: It raised anything but KeyboardInterrupt.
        """
        try:
            return function(*args)
        except (KeyboardInterrupt, ProtocolError):
            raise
        except BaseException as error:
            raise FilterFailed(self.node_id, error) from error

    def unload(self) -> None:
        """Tell the filter that it is not used any more; what it raises is logged."""
        self.let_go(self.obj)

    def let_go(self, obj: Any) -> None:
        """Tell an object that was the node's that it is not used any more."""
        let_go = getattr(obj, "on_unload", None)
        if not callable(let_go):
            return
        try:
            let_go()
        except BaseException:  # it may call sys.exit() as well, and others must be told too
            _log.exception("on_unload of node %r failed", self.node_id)

    def _method(self, name: str) -> Callable[..., Any]:
        method = getattr(self.obj, name, None)
        if callable(method):
            return method  # type: ignore[no-any-return]
        arguments = _ARGUMENTS.get(name, "self, x, state")
        raise ProtocolError(
            ErrorCode.FILTER_FAILED,
            f"node {self.node_id!r} is a {type(self.obj).__name__}, which has no method {name}: "
            f"define {name}({arguments}), or call what it has",
            node_id=self.node_id,
            remote_type="AttributeError",
        )

    def _check(self, side: str, schema: Schema | None, value: Any, lengths: dict[str, int]) -> None:
        if schema is None:
            return
        try:
            schema.check(value, lengths)
        except SchemaMismatch as error:
            raise Misfit(
                f"the {side} of node {self.node_id!r} does not match its schema: {error}",
                node_id=self.node_id,
                side=side,
            ) from None

    def _without_auxiliary(self, out: Any) -> Any:
        """The output that the schema is about: a differentiable node may return ``(out, aux)``."""
        paired = isinstance(out, tuple) and len(out) == 2
        return out[0] if paired and self.differentiable else out


def _meta_of(node_id: str, obj: Any, trainable: bool) -> FilterMeta:
    if not callable(getattr(obj, "forward", None)):
        raise ProtocolError(
            ErrorCode.LOAD_FAILED,
            f"node {node_id!r}: a {type(obj).__module__}.{type(obj).__qualname__} is not a filter: "
            "it has no method forward(x, state)",
            node_id=node_id,
            remote_type="TypeError",
        )
    if not accepts(obj.forward, None, None) and not prepares(obj):
        signature = inspect.signature(type(obj).forward)
        raise ProtocolError(
            ErrorCode.LOAD_FAILED,
            f"node {node_id!r}: {type(obj).__qualname__}.forward{signature} cannot be called with "
            "x and state: define forward(self, x, state), or wrap it in a filter that does",
            node_id=node_id,
            remote_type="TypeError",
        )
    declare = getattr(obj, "meta", None)
    if callable(declare):
        return _declared_meta(node_id, declare)
    differentiable = _holds_parameters(obj)
    learns = trainable and callable(getattr(obj, "fit", None))
    learning = FilterKind.TRAINABLE if differentiable else FilterKind.OPAQUE
    return FilterMeta(
        name=type(obj).__name__,
        kind=learning if learns else FilterKind.STATELESS,
        differentiable=differentiable,
    )


def prepares(obj: Any) -> bool:
    """Whether a filter has ``prepare(state)``, and a ``forward`` that takes what it returns."""
    prepare = getattr(obj, "prepare", None)
    return callable(prepare) and accepts(prepare, None) and accepts(obj.forward, None, None, None)


def _declared_meta(node_id: str, declare: Callable[[], Any]) -> FilterMeta:
    try:
        return FilterMeta.model_validate(declare())
    except KeyboardInterrupt:
        raise
    except ValidationError as error:
        raise _no_meta(node_id, f"is not a FilterMeta: {describe(error)}", error) from error
    except BaseException as error:  # a filter may call sys.exit() here as well
        raise _no_meta(node_id, f"raised {type(error).__name__}: {error}", error) from error


def _no_meta(node_id: str, reason: str, cause: BaseException) -> ProtocolError:
    return ProtocolError(
        ErrorCode.LOAD_FAILED,
        f"node {node_id!r}: meta() {reason}",
        node_id=node_id,
        remote_type=type(cause).__name__,
    )


def _holds_parameters(obj: Any) -> bool:
    """Whether it is a torch module, or an object with torch parameters or a torch optimizer."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    return (
        isinstance(obj, torch.nn.Module)
        or callable(getattr(obj, "named_parameters", None))
        or isinstance(getattr(obj, "optimizer", None), torch.optim.Optimizer)
    )


class NodeTable:
    """The loaded nodes by id."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def add(self, nodes: Iterable[Node]) -> None:
        """Add nodes; one of the same id is replaced, with what it learned."""
        added = {node.node_id: node for node in nodes}
        before = [self._nodes[node_id] for node_id in added if node_id in self._nodes]
        self._nodes.update(added)
        for node in before:
            if node.obj is not added[node.node_id].obj:
                node.unload()

    def get(self, node_id: str) -> Node:
        """The node of an id.

        Raises:
            ProtocolError: ``unknown_node``; the message lists the loaded ones.
        """
        node = self._nodes.get(node_id)
        if node is None:
            raise ProtocolError(
                ErrorCode.UNKNOWN_NODE,
                f"unknown node {node_id!r}; loaded nodes: {self._listed_for(node_id)}",
                node_id=node_id,
            )
        return node

    def _listed_for(self, node_id: str) -> str:
        if not self._nodes:
            return "none"
        close = get_close_matches(node_id, self._nodes, 1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        return ", ".join(map(repr, self._nodes)) + meant

    def chain(self, node_ids: Iterable[str]) -> list[Node]:
        """The nodes of several ids.

        Raises:
            ProtocolError: ``unknown_node``.
        """
        return [self.get(node_id) for node_id in node_ids]

    def remove(self, node_ids: Iterable[str]) -> None:
        """Forget nodes, all or none.

        Raises:
            ProtocolError: ``unknown_node``.
        """
        for node in self.chain(node_ids):
            if self._nodes.pop(node.node_id, None) is not None:
                node.unload()

    def close(self) -> None:
        """Forget all nodes, the last loaded first."""
        while self._nodes:
            self._nodes.popitem()[1].unload()
