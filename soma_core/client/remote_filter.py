"""RemoteFilter: a node of a worker, for code that expects a filter."""

from __future__ import annotations

from typing import Any, Protocol, Self

from pydantic import ConfigDict, PrivateAttr

from soma_core.models.filters import Filter, FilterKind, FilterMeta


class Runner(Protocol):
    """What a worker does for a node."""

    def fit(self, node_id: str, x: Any, y: Any = None) -> Any:
        """Fit the node."""

    def forward(self, node_id: str, x: Any, state: Any = None) -> Any:
        """Run the node."""


class RemoteFilter(Filter):
    """A node of a worker as a Filter: its ``fit`` and ``forward`` run there.

    A plugin may give its nodes handles that can do more: that of a scikit-learn estimator is an
    estimator itself.
    """

    model_config = ConfigDict(defer_build=True)

    _worker: Runner = PrivateAttr()
    _node_id: str = PrivateAttr()
    _meta: FilterMeta = PrivateAttr()

    @classmethod
    def of(cls, worker: Runner, node_id: str, meta: FilterMeta) -> Self:
        """The filter for a node of a worker.

        Args:
            worker: A Worker or a pool, in which the node is loaded.
            node_id: The node.
            meta: What the worker said of the node.
        """
        remote = cls()
        remote._worker, remote._node_id, remote._meta = worker, node_id, meta
        return remote

    @property
    def node_id(self) -> str:
        """The node."""
        return self._node_id

    def fit(self, x: Any, y: Any = None) -> Any:
        """Fit the node, and return the state that it learned.

        Args:
            x: The data.
            y: The targets.

        Raises:
            SomaError: As :meth:`soma_core.Worker.fit`.
        """
        return self._worker.fit(self.node_id, x, y)

    def forward(self, x: Any, state: Any = None) -> Any:
        """Run the node.

        Args:
            x: The data.
            state: The state to run with; None is what it learned last.

        Raises:
            SomaError: As :meth:`soma_core.Worker.forward`.
        """
        return self._worker.forward(self.node_id, x, state)

    def meta(self) -> FilterMeta:
        """The meta that the worker returned when the filter was loaded."""
        return self._meta

    @property
    def trainable(self) -> bool:
        """Whether the filter learns."""
        return self._meta.kind is not FilterKind.STATELESS

    def __repr__(self) -> str:
        return f"<RemoteFilter {self.node_id!r}: {self._meta.name}>"

    __str__ = __repr__
