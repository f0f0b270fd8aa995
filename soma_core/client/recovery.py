"""RecoveryLog: what a worker was given and has acknowledged, for the engine after it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from soma_core.client.calls import Call
from soma_core.errors import StateLost
from soma_core.models.filters import FilterKind, FilterMeta
from soma_core.protocol import commands as c
from soma_core.protocol import replies as r
from soma_core.wire.packing import pack
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import unpack


@dataclass
class _Node:
    source: c.FilterSpec
    meta: FilterMeta
    data: tuple[bytes, str | None] | None = None
    learned: _Kept | None = None
    training: bytes | None = None
    unheld: str | None = None
    lost: str | None = None

    @property
    def learns(self) -> bool:
        return self.meta.kind is not FilterKind.STATELESS or self.meta.differentiable


class RecoveryLog:
    """The filters of a worker, and the newest state of each that the host holds.

    It watches what was acknowledged. Everything is kept as it crossed the wire: what the caller
    does to a state afterwards does not change it. What ``fit`` keeps on the filter object itself,
    outside of the state that it returns, is nothing that the host could know of.
    """

    def __init__(self, pickles: Pickles) -> None:
        self._pickles = pickles
        self._nodes: dict[str, _Node] = {}
        self._lock = threading.RLock()  # a signal handler may call in the midst of a note

    def acknowledged(self, call: Call, reply: r.Reply) -> None:
        """A command was executed."""
        note = _NOTES.get(call.model)
        if note is not None:
            note(self, call.fields, reply)
        elif call.changes_states:
            self._changed(call.uses, call.cmd)

    def unclaimed(self, call: Call) -> None:
        """A command was executed, and its reply was lost: at a deadline, or by Ctrl-C."""
        if call.model is c.SetState:
            self._set_state(call.fields, None)
        elif call.model in _LEARN or call.changes_states or call.fields.get("evolve"):
            node_ids = call.fields.get("node_ids") or [call.fields["node_id"]]
            self._changed(node_ids, call.cmd.lower())

    def _load(self, fields: _Fields, reply: Any) -> None:
        with self._lock:
            for spec in fields["filters"]:
                self._nodes[spec.id] = _Node(spec, reply.filters[spec.id])

    def _unload(self, fields: _Fields, reply: Any) -> None:
        with self._lock:
            for node_id in fields["node_ids"]:
                self._nodes.pop(node_id, None)

    def _fit(self, fields: _Fields, reply: Any) -> None:
        verb = fields["cmd"].lower()
        if fields["return_state"]:
            self._learned(fields["node_id"], reply.result, verb)
        else:
            self._changed([fields["node_id"]], verb)
        self._changed(reply.in_objects or (), verb)

    def _composite_forward(self, fields: _Fields, reply: Any) -> None:
        if fields.get("evolve"):
            self._changed(fields["node_ids"], "stream")

    def _composite_fit(self, fields: _Fields, reply: Any) -> None:
        if not fields.get("step", True):
            return
        self._changed(fields["node_ids"], "composite_fit")
        for node_id, state in (reply.fit_states or {}).items():
            self._learned(node_id, state, "composite_fit")
        for node_id, data in (reply.states or {}).items():
            self._holds(node_id, data, "torch")
        self._changed(reply.in_objects or (), "composite_fit")

    def _batched_fit(self, fields: _Fields, reply: Any) -> None:
        self._changed(fields["node_ids"], "batched_fit")
        for node_id, state in (reply.states or {}).items():
            self._learned(node_id, state, "batched_fit")
        self._changed(reply.in_objects or (), "batched_fit")

    def _get_state(self, fields: _Fields, reply: Any) -> None:
        node_id = fields["node_id"]
        self._holds(node_id, reply.state_b64, reply.format, reply.training_b64)
        self._holds_learned(node_id, reply.fit_state)

    def _set_state(self, fields: _Fields, reply: Any) -> None:
        node_id = fields["node_id"]
        if "state_b64" in fields:
            data, format = fields["state_b64"], fields.get("format")
            self._holds(node_id, data, format, fields.get("training_b64"))
        if "fit_state" in fields:
            self._holds_learned(node_id, fields["fit_state"])

    def _apply_gradients(self, fields: _Fields, reply: Any) -> None:
        self._changed([fields["node_id"]], "apply_gradients")

    def _learned(self, node_id: str, state: Any, cmd: str) -> None:
        """A fit was acknowledged with the state that it returned."""
        node = self._nodes.get(node_id)
        if node is None:
            return
        if node.meta.differentiable:  # its parameters changed as well, and they did not travel
            node.unheld = cmd
        else:
            node.unheld = None
        node.learned, node.lost = _Kept.of(state, self._pickles), None

    def _holds(self, node_id: str, data: Any, format: str | None, training: Any = None) -> None:
        """What a node's object holds was sent or fetched, with what its training needs or not.

        Optimizers that are held no longer begin anew after a restart.
        """
        node = self._nodes.get(node_id)
        if node is not None:
            node.data, node.unheld, node.lost = (bytes(data), format), None, None
            node.training = None if training is None else bytes(training)

    def _holds_learned(self, node_id: str, state: Any) -> None:
        """What a node learned was sent or fetched."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.learned = _Kept.of(state, self._pickles)

    def _changed(self, node_ids: Iterable[str], cmd: str) -> None:
        """A command changed the states of nodes, and they did not travel back."""
        for node_id in node_ids:
            node = self._nodes.get(node_id)
            if node is not None and node.learns:
                node.unheld, node.lost = cmd, None  # there is a newer state than the lost one

    def _differentiable(self, node_ids: Iterable[str]) -> list[str]:
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

    def check(self, call: Call) -> None:
        """Refuse a command that uses nodes whose newest state is lost.

        FIT begins anew, but for the parameters of a node through which gradients flow.

        Raises:
            StateLost: One of them is such a node.
        """
        uses = self._differentiable(call.uses) if call.model is c.Fit else call.uses
        for node_id in uses:
            node = self._nodes.get(node_id)
            if node is not None and node.lost is not None:
                raise StateLost(
                    f"the worker was restarted, and what node {node_id!r} learned last (by "
                    f"{node.lost}) was held by the dead one alone; load the node again, fit it, or "
                    "set its state. States survive a restart if they travel: return_state(s)=True, "
                    "get_state or set_state"
                )

    def restore(self) -> Iterator[c.Command]:
        """The commands that bring a new engine to where this log is."""
        with self._lock:
            nodes = list(self._nodes.values())
        if nodes:
            yield c.Load(cmd="LOAD", filters=[node.source for node in nodes])
        for node in nodes:
            if node.data is not None or node.learned is not None:
                yield self._setter(node)

    def _setter(self, node: _Node) -> c.SetState:
        fields: dict[str, Any] = {"cmd": "SET_STATE", "node_id": node.source.id}
        if node.data is not None:
            fields["state_b64"], format = node.data
            fields |= {"format": format} if format is not None else {}
        if node.learned is not None:
            fields["fit_state"] = node.learned.state(self._pickles)
        if node.training is not None:
            fields["training_b64"] = node.training
        return c.SetState(**fields)


_Fields = Mapping[str, Any]
_NOTES: dict[type[c.Command], Callable[[RecoveryLog, _Fields, Any], None]] = {
    c.Load: RecoveryLog._load,
    c.Unload: RecoveryLog._unload,
    c.Fit: RecoveryLog._fit,
    c.PartialFit: RecoveryLog._fit,
    c.CompositeForward: RecoveryLog._composite_forward,
    c.CompositeFit: RecoveryLog._composite_fit,
    c.BatchedFit: RecoveryLog._batched_fit,
    c.ContinueFit: RecoveryLog._batched_fit,
    c.GetState: RecoveryLog._get_state,
    c.SetState: RecoveryLog._set_state,
    c.ApplyGradients: RecoveryLog._apply_gradients,
}

_LEARN = {c.Fit, c.PartialFit, c.CompositeFit, c.BatchedFit, c.ContinueFit, c.ApplyGradients}


class _Kept(NamedTuple):
    """A state as it crosses the wire, which nobody else can change."""

    header: bytes
    buffers: list[bytes]

    @classmethod
    def of(cls, state: Any, pickles: Pickles) -> _Kept:
        header, buffers = pack(state, pickles)
        return cls(header, [bytes(memoryview(buffer)) for buffer in buffers])

    def state(self, pickles: Pickles) -> Any:
        return unpack(self.header, [bytearray(buffer) for buffer in self.buffers], pickles)
