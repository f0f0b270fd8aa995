"""Ledger: what a worker was given and has acknowledged, so that its successor can be given it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from soma_core.errors import StateLost
from soma_core.models.filters import FilterKind, FilterMeta
from soma_core.wire.codec import Decoder, FrameEncoder
from soma_core.wire.json_text import read_json, write_json
from soma_core.wire.pickles import Pickles

__all__ = ["FilterSource", "Ledger", "Restoration"]

Build = Callable[[FrameEncoder], dict[str, Any]]


class FilterSource(NamedTuple):
    """How one filter is loaded: by its pickle, or by its registered name.

    Attributes:
        node_id: The node.
        trainable: Whether the composite commands fit it.
        pickle: The object as it was sent; None for a registered filter.
        name: The registered name; None for a pickle.
        config: The configuration of a registered filter, as JSON.
    """

    node_id: str
    trainable: bool
    pickle: bytes | None = None
    name: str | None = None
    config: bytes | None = None

    def spec(self, encoder: FrameEncoder) -> dict[str, Any]:
        """The entry of a LOAD command."""
        spec: dict[str, Any] = {"id": self.node_id, "trainable": self.trainable}
        if self.pickle is not None:
            spec["pickle_b64"] = encoder.binary(self.pickle)
        else:
            spec["filter"] = self.name
        if self.config is not None:
            spec["config"] = read_json(self.config)
        return spec


class Restoration(NamedTuple):
    """One command that brings a new worker nearer to its predecessor."""

    cmd: str
    build: Build
    node_id: str | None = None


@dataclass
class _Node:
    source: FilterSource
    meta: FilterMeta
    data: tuple[bytes, str | None] | None = None
    learned: _Kept | None = None
    training: bytes | None = None
    unheld: str | None = None
    lost: str | None = None

    @property
    def learns(self) -> bool:
        return self.meta.kind is not FilterKind.STATELESS or self.meta.differentiable


class Ledger:
    """The filters of a worker, and the newest state of each that the host holds.

    Everything is kept as it crossed the wire: what the caller does to a state afterwards does
    not change it. What ``fit`` keeps on the filter object itself, outside of the state that it
    returns, is nothing that the host could know of.

    Args:
        pickles: Whether states may be kept as pickles.
    """

    def __init__(self, pickles: Pickles) -> None:
        self._pickles = pickles
        self._nodes: dict[str, _Node] = {}
        self._lock = threading.Lock()

    def loaded(self, sources: Iterable[FilterSource], metas: Mapping[str, FilterMeta]) -> None:
        """LOAD was acknowledged."""
        with self._lock:
            for source in sources:
                self._nodes[source.node_id] = _Node(source, metas[source.node_id])

    def unloaded(self, node_ids: Iterable[str]) -> None:
        """UNLOAD was acknowledged."""
        with self._lock:
            for node_id in node_ids:
                self._nodes.pop(node_id, None)

    def learned(self, node_id: str, state: Any) -> None:
        """A fit was acknowledged with the state that it returned."""
        node = self._nodes.get(node_id)
        if node is None:
            return
        if node.meta.differentiable:  # its parameters changed as well, and they did not travel
            node.unheld = "fit"
        else:
            node.unheld = None
        node.learned, node.lost = _Kept.of(state, self._pickles), None

    def holds(
        self, node_id: str, data: bytes, format: str | None, training: bytes | None = None
    ) -> None:
        """What a node's object holds was sent or fetched, with what its training needs or not.

        Optimizers that are held no longer begin anew after a restart.
        """
        node = self._nodes.get(node_id)
        if node is not None:
            node.data, node.unheld, node.lost = (data, format), None, None
            node.training = training

    def holds_learned(self, node_id: str, state: Any) -> None:
        """What a node learned was sent or fetched."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.learned = _Kept.of(state, self._pickles)

    def changed(self, node_ids: Iterable[str], cmd: str) -> None:
        """A command changed the states of nodes, and they did not travel back."""
        for node_id in node_ids:
            node = self._nodes.get(node_id)
            if node is not None and node.learns:
                node.unheld, node.lost = cmd, None  # there is a newer state than the lost one

    def differentiable(self, node_ids: Iterable[str]) -> list[str]:
        """Those of some nodes through which gradients flow."""
        known = ((node_id, self._nodes.get(node_id)) for node_id in node_ids)
        return [node_id for node_id, node in known if node and node.meta.differentiable]

    def worker_ended(self) -> None:
        """What the host does not hold is lost from now on."""
        with self._lock:
            for node in self._nodes.values():
                if node.unheld is not None:
                    node.lost, node.unheld = node.unheld, None
                    node.data = node.learned = node.training = None

    def check(self, node_ids: Iterable[str]) -> None:
        """Refuse to use nodes whose newest state is lost.

        Raises:
            StateLost: One of them is such a node.
        """
        for node_id in node_ids:
            node = self._nodes.get(node_id)
            if node is not None and node.lost is not None:
                raise StateLost(
                    f"the worker was restarted, and what node {node_id!r} learned last (by "
                    f"{node.lost}) was held by the dead one alone; load the node again, fit it, or "
                    "set its state. States survive a restart if they travel: return_state(s)=True, "
                    "get_state or set_state"
                )

    def restore(self) -> Iterator[Restoration]:
        """The commands that bring a new worker to where this ledger is."""
        with self._lock:
            nodes = list(self._nodes.values())
        if nodes:
            yield Restoration(
                "LOAD", lambda encoder: {"filters": [node.source.spec(encoder) for node in nodes]}
            )
        for node in nodes:
            if node.data is not None or node.learned is not None:
                yield Restoration("SET_STATE", self._setter(node), node.source.node_id)

    def _setter(self, node: _Node) -> Build:
        def build(encoder: FrameEncoder) -> dict[str, Any]:
            fields: dict[str, Any] = {"node_id": node.source.node_id}
            if node.data is not None:
                data, format = node.data
                fields["state_b64"] = encoder.binary(data)
                fields |= {"format": format} if format is not None else {}
            if node.learned is not None:
                fields["fit_state"] = encoder.encode(node.learned.state(self._pickles))
            if node.training is not None:
                fields["training_b64"] = encoder.binary(node.training)
            return fields

        return build


class _Kept(NamedTuple):
    """A state in wire form, which nobody else can change."""

    header: bytes
    buffers: list[bytes]

    @classmethod
    def of(cls, state: Any, pickles: Pickles) -> _Kept:
        encoder = FrameEncoder(pickles=pickles)
        header = write_json(encoder.encode(state))
        return cls(header, [bytes(memoryview(buffer)) for buffer in encoder.buffers])

    def state(self, pickles: Pickles) -> Any:
        buffers = [bytearray(buffer) for buffer in self.buffers]
        return Decoder(buffers, pickles=pickles).state(read_json(self.header))
