"""RemoteFilter: a node of a worker, for code that expects a filter."""

from __future__ import annotations

from typing import Any, Protocol

from pydantic import ConfigDict, PrivateAttr

from soma_core.models.filters import Filter, FilterKind, FilterMeta

__all__ = ["RemoteFilter", "Runner"]


class Runner(Protocol):
    """What a worker does for a node."""

    def fit(self, node_id: str, x: Any, y: Any = None) -> Any:
        """Fit the node."""

    def forward(self, node_id: str, x: Any, state: Any = None) -> Any:
        """Run the node."""


class RemoteFilter(Filter):
    """A node of a worker as a Filter: its ``fit`` and ``forward`` run there.

    Attributes:
        node_id: The node.
    """

    model_config = ConfigDict(defer_build=True)

    node_id: str
    _worker: Runner = PrivateAttr()
    _meta: FilterMeta = PrivateAttr()

    @classmethod
    def of(cls, worker: Runner, node_id: str, meta: FilterMeta) -> RemoteFilter:
        """The filter for a node of a worker."""
        remote = cls(node_id=node_id)
        remote._worker, remote._meta = worker, meta
        return remote

    def fit(self, x: Any, y: Any = None) -> Any:
        """Fit the node, and return the state that it learned."""
        return self._worker.fit(self.node_id, x, y)

    def forward(self, x: Any, state: Any = None) -> Any:
        """Run the node with a state; None means what it learned last."""
        return self._worker.forward(self.node_id, x, state)

    def meta(self) -> FilterMeta:
        """The meta that the worker returned when the filter was loaded."""
        return self._meta

    @property
    def trainable(self) -> bool:
        """Whether the filter learns."""
        return self._meta.kind is FilterKind.TRAINABLE
