"""LOAD: from what the host sent to nodes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from soma_core.engine.nodes import FilterFailed, Node
from soma_core.errors import ErrorCode, PluginError, PluginNotFound, ProtocolError
from soma_core.models.imports import limit_imports
from soma_core.protocol.commands import FilterSpec
from soma_core.wire.pickles import Pickles


class Misconfigured(ProtocolError):
    """``load_failed``: a configuration is not valid; the text says all that is to be said."""


class FilterRegistry(Protocol):
    """Where registered filters come from; ``soma_core.plugins.catalog`` has the real one."""

    def names(self) -> list[str]:
        """The registered names, from metadata alone."""
        ...

    def create(self, name: str, config: dict[str, Any]) -> Any:
        """Build the filter of a name from its configuration.

        Raises:
            PluginError: It is not installed, or broken.
            ValueError: The configuration is not valid.
        """
        ...


def load_nodes(
    specs: Iterable[FilterSpec], registry: FilterRegistry, pickles: Pickles
) -> list[Node]:
    """Build nodes, all or none.

    Raises:
        ProtocolError: ``load_failed``, ``unknown_filter`` or ``pickle_refused``, naming the node.
    """
    loaded: list[Node] = []
    try:
        for spec in specs:
            loaded.append(_load_node(spec, registry, pickles))
    except BaseException:
        for node in loaded:
            node.unload()
        raise
    return loaded


def _load_node(spec: FilterSpec, registry: FilterRegistry, pickles: Pickles) -> Node:
    """Build one node.

    Raises:
        ProtocolError: ``load_failed``, ``unknown_filter`` or ``pickle_refused``, naming the node.
    """
    with configuring(pickles):
        if spec.filter is None:
            obj = _from_pickle(spec, pickles)
        else:
            obj = _from_registry(spec.id, spec.filter, spec.config, registry)
        node = Node(spec.id, obj, trainable=spec.trainable, registered=spec.filter)
        _get_ready(node)
        return node


def configuring(pickles: Pickles) -> AbstractContextManager[None]:
    """Where a filter takes a configuration from the host, which may name modules to import.

    Without pickles only those that the filter itself knows, and those that the operator of this
    process lists in ``SOMA_ALLOW_MODULES=a,b``.
    """
    if pickles.allowed:
        return nullcontext()
    listed = (name.strip() for name in os.environ.get("SOMA_ALLOW_MODULES", "").split(","))
    return limit_imports(name for name in listed if name)


def _get_ready(node: Node) -> None:
    get_ready = getattr(node.obj, "on_load", None)
    if not callable(get_ready):
        return
    try:
        node.call(get_ready)
    except FilterFailed as failed:
        cause = failed.cause
        raise _load_error(ErrorCode.LOAD_FAILED, node.node_id, cause) from cause


def _from_pickle(spec: FilterSpec, pickles: Pickles) -> Any:
    try:
        return pickles.load(spec.pickle_b64)
    except ProtocolError as error:
        code = error.code
        raise ProtocolError(
            code if code is ErrorCode.PICKLE_REFUSED else ErrorCode.LOAD_FAILED,
            f"node {spec.id!r}: {error}",
            node_id=spec.id,
            remote_type=error.remote_type,
        ) from error.__cause__


def _from_registry(
    node_id: str, name: str, config: dict[str, Any], registry: FilterRegistry
) -> Any:
    try:
        return registry.create(name, config)
    except PluginNotFound as error:
        raise _load_error(ErrorCode.UNKNOWN_FILTER, node_id, error) from error
    except ValueError as error:
        raise Misconfigured(
            ErrorCode.LOAD_FAILED,
            f"node {node_id!r}: {error}",
            node_id=node_id,
            remote_type=type(error).__name__,
        ) from error
    except PluginError as error:
        raise _load_error(ErrorCode.LOAD_FAILED, node_id, error) from error
    except Exception as error:  # a filter's constructor or validator may raise anything
        raise _load_error(ErrorCode.LOAD_FAILED, node_id, error, f"{name}: ") from error


def _load_error(
    code: ErrorCode, node_id: str, cause: BaseException, where: str = ""
) -> ProtocolError:
    return ProtocolError(
        code,
        f"node {node_id!r}: {where}{cause}",
        node_id=node_id,
        remote_type=type(cause).__name__,
    )
