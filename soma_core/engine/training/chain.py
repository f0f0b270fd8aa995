"""Chain: nodes run one after the other, plain values and tensors each where they belong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from soma_core.engine.nodes import Misfit, Node
from soma_core.engine.training import tensors
from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.chains import ChainMismatch, ChainNode, check_chain, describe_edge
from soma_core.models.filters import StreamMode

if TYPE_CHECKING:
    import torch

Fit = Callable[[Node, Any, Any, dict[str, int]], Any]
"""Fits one node: ``fit(node, x, y, lengths)``, and returns its state."""

Watch = Callable[[Node, Any, Any], None]
"""Called after each node with its input and its output."""


class Chain:
    """Some nodes in order, at least one, for the time of one command.

    In a chain with a differentiable node, lists become tensors at its start, and arrays where
    they enter a differentiable node; a chain without one sees the values as they were sent.

    Raises:
        ProtocolError: ``schema_mismatch``: neighbours declare what cannot fit together.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self.differentiable = False
        self._last_fitted_apart = -1
        self._takes_tensors: dict[str, bool] = {}
        self._trained_jointly: list[Node] = []
        declared = False
        for place, node in enumerate(nodes):
            differentiable = self._takes_tensors[node.node_id] = node.differentiable
            self.differentiable |= differentiable
            declared |= node.meta.input_schema is not None
            if differentiable and node.trained_jointly:
                self._trained_jointly.append(node)
            elif node.fitted_apart:
                self._last_fitted_apart = place
        self._lengths: dict[str, int] = {}
        self._by_node: dict[str, list[torch.nn.Parameter]] = {}
        self._parameters: list[torch.nn.Parameter] = []
        self._optimizers: list[tuple[Node, torch.optim.Optimizer]] | None = None
        self._kind: tuple[torch.dtype, torch.device] | None = None
        if declared:
            self._check_declared()

    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters of all nodes, looked up once in a command, or once after each ``fit``.

        Training asks for them in every batch, and a module lists them slowly.
        """
        if not self._parameters:
            self._parameters = [own for node in self.nodes for own in self.parameters_of(node)]
        return self._parameters

    def parameters_of(self, node: Node) -> list[torch.nn.Parameter]:
        """A node's parameters, looked up as seldom."""
        found = self._by_node.get(node.node_id)
        if not found:
            found = self._by_node[node.node_id] = tensors.parameters(node)
        return found

    def optimizers(self) -> list[tuple[Node, torch.optim.Optimizer]]:
        """The trainable nodes that own an optimizer, with it; looked up as seldom."""
        if self._optimizers is None:
            owned = [(node, tensors.own_optimizer(node)) for node in self.nodes if node.trainable]
            self._optimizers = [(node, own) for node, own in owned if own is not None]
        return self._optimizers

    def refresh(self) -> None:
        """Look up anew what nodes hold: other commands may have replaced it meanwhile."""
        self._by_node.clear()
        self._forget_all()

    def _forget_all(self) -> None:
        self._parameters, self._optimizers, self._kind = [], None, None

    def drop_states(self) -> None:
        """Nodes that are trained by gradients have nothing but their parameters."""
        for node in self._trained_jointly:
            node.state = {}

    def next_call(self) -> None:
        """Let named axes have other lengths from here on, as in the next batch."""
        self._lengths = {}

    def enter(self, x: Any) -> Any:
        """What the first node is given for the data that was sent."""
        return self._to_tensors(x) if self.differentiable and isinstance(x, list) else x

    def step(self, place: int, x: Any, state: Any, *, raw: bool = False) -> Any:
        """Run the node at a place of the chain; ``raw`` as for :meth:`run`."""
        node = self.nodes[place]
        if self._takes_tensors[node.node_id]:
            x = self._to_tensors(x)
        try:
            return node.forward(x, state, self._lengths, raw=raw)
        except Misfit as misfit:
            raise self._on_its_edge(misfit, place) from None

    def fit(self, place: int, x: Any, y: Any, fit: Fit) -> Any:
        """Fit the node at a place of the chain, and return its state."""
        node = self.nodes[place]
        try:
            return fit(node, x, y, self._lengths)
        except Misfit as misfit:
            raise self._on_its_edge(misfit, place) from None
        finally:  # fit may build parameters anew, or the first ones
            self._by_node.pop(node.node_id, None)
            self._forget_all()
            self._takes_tensors[node.node_id] = node.differentiable

    def _to_tensors(self, x: Any) -> Any:
        if self._kind is None:
            self._kind = tensors.kind_of(self.parameters())
        return tensors.to_tensors(x, *self._kind)

    def run(
        self,
        x: Any,
        states: Mapping[str, Any],
        watch: Watch | None = None,
        *,
        evolve: bool = False,
        raw: bool = False,
    ) -> Any:
        """Run all nodes.

        Args:
            x: The data.
            states: States by node id; a node without one uses what it learned last.
            watch: Called after each node with its input and its output.
            evolve: Whether Evolving nodes learn from their input before they run.
            raw: Whether nodes that have ``raw_output(x, state)`` run that in place of ``forward``:
                what they give while they are trained, which the loss is computed of.
        """
        x = self.enter(x)
        for place, node in enumerate(self.nodes):
            if evolve and node.trainable and node.meta.stream_mode is StreamMode.EVOLVING:
                self.fit(place, x, None, _partial_fit)
            out = self.step(place, x, states.get(node.node_id, node.state), raw=raw)
            if watch is not None:
                watch(node, x, out)
            x = out
        return x

    def fit_each(self, x: Any, y: Any, fit: Fit) -> tuple[dict[str, Any], Any]:
        """Fit the nodes that are fitted apart, forwarding to the next as far as one needs it.

        Returns:
            The states by node id, and the output of the last node; None if a training step will
            compute it again.
        """
        joint = self.differentiable and y is not None
        states: dict[str, Any] = {}
        if joint and self._last_fitted_apart < 0:
            return states, None
        given = x
        for index, node in enumerate(self.nodes):
            if node.fitted_apart:
                states[node.node_id] = self.fit(index, x, y, fit)
            if joint and index >= self._last_fitted_apart:
                return states, None
            with tensors.no_gradients(self.nodes):
                x = self.step(index, x, states.get(node.node_id, node.state))
        if len({node.node_id for node in self.nodes}) < len(self.nodes):
            with tensors.no_gradients(self.nodes):  # one that comes twice was fitted once more
                x = self.run(given, states)
        return states, x

    def _check_declared(self) -> None:
        try:
            check_chain(map(_chain_node, self.nodes))
        except ChainMismatch as error:
            raise ProtocolError(
                ErrorCode.SCHEMA_MISMATCH,
                str(error),
                node_id=error.node_id,
                remote_type="SchemaMismatch",
            ) from None

    def _on_its_edge(self, misfit: Misfit, place: int) -> Misfit:
        """The same error, with the neighbour that the value came from or was meant for."""
        start = place - 1 if misfit.side == "input" else place
        if start < 0 or start + 1 == len(self.nodes):
            return misfit  # an end of the chain: there is no neighbour
        edge = describe_edge(*map(_chain_node, self.nodes[start : start + 2]))
        node_id = self.nodes[place].node_id
        return Misfit(f"{misfit}; it is on {edge}", node_id=node_id, side=misfit.side)


def _chain_node(node: Node) -> ChainNode:
    return ChainNode(node.node_id, node.meta, node.differentiable)


def _partial_fit(node: Node, x: Any, y: Any, lengths: dict[str, int]) -> Any:
    return node.partial_fit(x, y, node.state, lengths)
