"""Batching: which calls of a pool may be run together, as one command on the rows of all."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from soma_core.models import rows
from soma_core.models.filters import FilterMeta

_STRIDED = "torch.strided"


@dataclass(frozen=True)
class Batching:
    """How a pool joins calls that wait for the same nodes into one command.

    Only nodes are joined whose :class:`~soma_core.FilterMeta` says that they are ``rowwise``.
    A call goes at once where nothing else is under way.

    Args:
        max_rows: The most rows of one command. A call that has more goes alone.
        max_delay: The most seconds that a call waits for others to join it, under load.
        nodes: The ids of the nodes whose calls are joined; None for all that may be.

    Raises:
        TypeError: An argument is of another type.
        ValueError: ``max_rows`` is less than 2, or ``max_delay`` is negative or infinite.
    """

    max_rows: int = 64
    max_delay: float = 0.005
    nodes: Collection[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.max_rows, bool) or not isinstance(self.max_rows, int):
            raise TypeError(f"max_rows is a whole number, got {self.max_rows!r}")
        if self.max_rows < 2:
            raise ValueError(f"max_rows is at least 2, got {self.max_rows}")
        if isinstance(self.max_delay, bool) or not isinstance(self.max_delay, int | float):
            raise TypeError(f"max_delay is a number of seconds, got {self.max_delay!r}")
        if not 0 <= self.max_delay < math.inf:
            raise ValueError(f"max_delay is at least 0 seconds, and finite, got {self.max_delay}")
        if isinstance(self.nodes, str) or not isinstance(self.nodes, Collection | None):
            raise TypeError(f"nodes is a collection of node ids, got {self.nodes!r}")

    def check(self, metas: Mapping[str, FilterMeta]) -> None:
        """Make sure that the nodes that are named may be joined.

        Raises:
            ValueError: One of those that are loaded may not.
        """
        for node_id, meta in metas.items():
            if self.nodes is not None and node_id in self.nodes and not meta.rowwise:
                raise ValueError(
                    f"batching names the node {node_id!r}, whose filter {meta.name} does not say "
                    "that its rows are independent; let its meta() return "
                    "super().meta().replace(rowwise=True)"
                )

    def joinable(
        self,
        node_ids: tuple[str, ...],
        x: Any,
        timeout: float | None,
        metas: Mapping[str, FilterMeta],
        carried: dict[str, Any] | None = None,
    ) -> Joinable | None:
        """What must be known of a call to join it with others; None if it is to be run alone."""
        for node_id in node_ids:
            meta = metas.get(node_id)
            named = self.nodes is None or node_id in self.nodes
            if meta is None or not (named and meta.rowwise):
                return None
        try:
            count, kind = rows.count(x), _kind(x)
        except ValueError:  # the filter's to complain about
            return None
        if kind is None or count is None or not 0 < count <= self.max_rows:
            return None
        try:
            meta_key = None if carried is None else json.dumps(carried, sort_keys=True)
        except (TypeError, ValueError, RecursionError):  # who can say whether another is the same
            return None
        key = (node_ids, kind, meta_key)
        return Joinable(node_ids, x, count, timeout, key, carried)


class Joinable(NamedTuple):
    """What must be known of a call to join it with others.

    Attributes:
        node_ids: The nodes that it runs.
        x: Its input.
        rows: How many rows that has.
        timeout: Seconds that it may run.
        key: Equal for calls that may be joined.
        meta: What goes along with it, the same for all that are joined.
    """

    node_ids: tuple[str, ...]
    x: Any
    rows: int
    timeout: float | None
    key: Hashable
    meta: dict[str, Any] | None = None


def _kind(value: Any) -> Hashable:
    """Equal for data whose rows can be put together; None for what is not joined.

    A tuple is none: it may be several inputs of one row each, or of any number of rows. A subclass
    of a dict or a list is none, since each of them may hold more than its items.
    """
    if type(value) is np.ndarray:  # the usual case
        return (value.dtype, value.shape[1:])
    if type(value) is dict:
        columns = tuple((name, _kind(column)) for name, column in value.items())
        return None if any(kind is None for _, kind in columns) else ("dict", columns)
    if type(value) is list:
        return ("list", _kind_of_row(value[0]) if value else None)
    if isinstance(value, dict | list | tuple):
        return None
    if hasattr(value, "iloc"):
        return _kind_of_frame(value)
    if isinstance(getattr(value, "shape", None), tuple):
        if getattr(value, "requires_grad", False):
            return None  # a filter that asks for gradients would get those of all callers
        if str(getattr(value, "layout", _STRIDED)) != _STRIDED:
            return None  # a sparse tensor cannot be cut
        details = (getattr(value, name, None) for name in ("dtype", "device", "dtypes", "schema"))
        return (type(value), tuple(value.shape[1:]), *map(str, details))
    return (type(value), repr(value))  # the same for all rows: equal, or not joined


def _kind_of_frame(frame: Any) -> Hashable:
    """Of a frame or a series of pandas: put together, they must keep their labels and types."""
    if getattr(frame, "attrs", None):
        return None  # they are of the whole frame
    index = frame.index
    columns = (
        (frame.name, frame.dtype)
        if frame.ndim == 1
        else (*frame.columns, *frame.columns.names, *frame.dtypes)
    )
    numbered = rows.is_numbered(frame)
    return (type(frame), columns, type(index), index.dtype, tuple(index.names), numbered)


def _kind_of_row(row: Any) -> Hashable:
    if isinstance(row, list | tuple):
        return (type(row), len(row))
    return (type(row), getattr(row, "shape", None), str(getattr(row, "dtype", None)))
