"""Chains: whether what a filter declares to return fits what the next one declares to take."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise, zip_longest
from typing import NamedTuple

from soma_core.models.filters import FilterMeta
from soma_core.models.schema import FLOATS, DataType, Dimension, Fixed, Schema, SchemaMismatch


class ChainNode(NamedTuple):
    """A node of a chain: its id, its meta, and whether floats are converted to its own type."""

    node_id: str
    meta: FilterMeta
    converts: bool

    @classmethod
    def of(cls, node_id: str, meta: FilterMeta) -> ChainNode:
        """A node as its meta describes it: differentiable ones get tensors of one type."""
        return cls(node_id, meta, meta.differentiable)


class ChainMismatch(SchemaMismatch):
    """Two neighbours in a chain declare schemas that no value can meet.

    Attributes:
        node_id: The node that cannot take what the one before it returns.
    """

    def __init__(self, message: str, node_id: str) -> None:
        super().__init__(message)
        self.node_id = node_id


def check_chain(chain: Iterable[ChainNode]) -> None:
    """Compare what neighbours in a chain declare; what is not declared is not compared.

    Element types must be equal, but that ``Json`` fits everything and that floats fit each other
    where they are converted. Axes must have one length wherever they have one name, all along
    the chain, as within a call.

    Raises:
        ChainMismatch: No value could pass from a node to the next as both declare.
    """
    axes = _Axes()
    for before, after in pairwise(chain):
        given, taken = before.meta.output_schema, after.meta.input_schema
        if given is None or taken is None:
            continue
        if not _types_fit(given, taken, after.converts) or not axes.unite(given, taken):
            raise ChainMismatch(
                f"{describe_edge(before, after)}; no value fits both{axes.known()}",
                after.node_id,
            )


def describe_edge(before: ChainNode, after: ChainNode) -> str:
    """An edge and the schemas at its two ends."""
    given, taken = before.meta.output_schema, after.meta.input_schema
    returns = f"returns {given}" if given else "declares no output"
    takes = f"takes {taken}" if taken else "declares no input"
    return (
        f"the edge {before.node_id!r} -> {after.node_id!r}: {before.node_id!r} {returns} and "
        f"{after.node_id!r} {takes}"
    )


def _types_fit(given: Schema, taken: Schema, converts: bool) -> bool:
    types = {given.dtype, taken.dtype}
    return len(types) == 1 or DataType.JSON in types or (converts and types <= FLOATS)


class _Axes:
    """What is known of the axes that have names: a length, or another name for the same."""

    def __init__(self) -> None:
        self._known: dict[str, str | int] = {}

    def unite(self, given: Schema, taken: Schema) -> bool:
        """Note that two schemas describe one value; False if they cannot."""
        if given.shape is None or taken.shape is None:
            return True
        pairs = zip_longest(given.shape, taken.shape)
        return all(one and other and self._unite(one, other) for one, other in pairs)

    def _unite(self, one: Dimension, other: Dimension) -> bool:
        mine, yours = self._resolve(_name_or_length(one)), self._resolve(_name_or_length(other))
        if mine == yours:
            return True
        if isinstance(mine, str):
            self._known[mine] = yours
        elif isinstance(yours, str):
            self._known[yours] = mine
        else:
            return False
        return True

    def _resolve(self, axis: str | int) -> str | int:
        while isinstance(axis, str) and axis in self._known:
            axis = self._known[axis]
        return axis

    def known(self) -> str:
        """The lengths that follow so far, for messages."""
        found = {name: self._resolve(name) for name in self._known}
        listed = ", ".join(f"{k}={size}" for k, size in found.items() if isinstance(size, int))
        return f" (with {listed})" if listed else ""


def _name_or_length(axis: Dimension) -> str | int:
    return axis.Fixed if isinstance(axis, Fixed) else axis.Dynamic
