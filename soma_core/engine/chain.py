"""Chain: nodes run one after the other, plain values and tensors each where they belong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from soma_core.engine import tensors
from soma_core.engine.nodes import Node
from soma_core.filters import StreamMode

if TYPE_CHECKING:
    import torch

__all__ = ["Chain"]


class Chain:
    """Some nodes in order, for the time of one command.

    In a chain with a differentiable node, lists become tensors at its start, and arrays where
    they enter a differentiable node; a chain without one sees the values as they were sent.

    Args:
        nodes: The nodes, at least one.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self.differentiable = any(node.differentiable for node in nodes)
        apart = [place for place, node in enumerate(nodes) if node.fitted_apart]
        self._last_fitted_apart = max(apart, default=-1)
        self._lengths: dict[str, int] = {}
        self._parameters: dict[str, list[torch.nn.Parameter]] = {}
        self._like: torch.nn.Parameter | None = None

    def parameters(self, node: Node) -> list[torch.nn.Parameter]:
        """A node's parameters, looked up once in a command as soon as it has some.

        Training asks for them in every batch, and a module lists them slowly.
        """
        found = self._parameters.get(node.node_id)
        if not found:
            found = self._parameters[node.node_id] = tensors.parameters(node)
        return found

    def next_call(self) -> None:
        """Let named axes have other lengths from here on, as in the next batch."""
        self._lengths = {}

    def enter(self, x: Any) -> Any:
        """What the first node is given for the data that was sent."""
        return self._to_tensors(x) if self.differentiable and isinstance(x, list) else x

    def step(self, node: Node, x: Any, state: Any) -> Any:
        """Run one node."""
        if node.differentiable:
            x = self._to_tensors(x)
        return node.forward(x, state, self._lengths)

    def _to_tensors(self, x: Any) -> Any:
        if self._like is None:
            listed = (parameter for node in self.nodes for parameter in self.parameters(node))
            self._like = next(filter(tensors.is_floating, listed), None)
        return tensors.to_input(x, self._like)

    def run(
        self,
        x: Any,
        states: Mapping[str, Any],
        watch: Callable[[Node, Any, Any], None] | None = None,
        *,
        evolve: bool = False,
    ) -> Any:
        """Run all nodes.

        Args:
            x: The data.
            states: States by node id; a node without one uses what it learned last.
            watch: Called after each node with its input and its output.
            evolve: Whether Evolving nodes learn from their input before they run.
        """
        x = self.enter(x)
        for node in self.nodes:
            if evolve and node.trainable and node.meta.stream_mode is StreamMode.EVOLVING:
                node.partial_fit(x, None, node.state, self._lengths)
            out = self.step(node, x, states.get(node.node_id, node.state))
            if watch is not None:
                watch(node, x, out)
            x = out
        return x

    def fit_each(
        self, x: Any, y: Any, fit: Callable[[Node, Any, Any, dict[str, int]], Any]
    ) -> tuple[dict[str, Any], Any]:
        """Fit the nodes that are fitted apart, forwarding to the next as far as one needs it.

        Args:
            x: The data, given to ``fit`` as it was sent.
            y: The targets, or None.
            fit: Fits one node: ``fit(node, x, y, lengths)``.

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
                states[node.node_id] = fit(node, x, y, self._lengths)
            if joint and index >= self._last_fitted_apart:
                return states, None
            with tensors.no_gradients(self.nodes):
                x = self.step(node, x, states.get(node.node_id, node.state))
        if len({node.node_id for node in self.nodes}) < len(self.nodes):
            with tensors.no_gradients(self.nodes):  # one that comes twice was fitted once more
                x = self.run(given, states)
        return states, x
