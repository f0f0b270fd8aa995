"""Chain: nodes run one after the other, plain values and tensors each where they belong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from soma_core.engine import tensors
from soma_core.engine.nodes import Node
from soma_core.filters import StreamMode

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
        self._lengths: dict[str, int] = {}

    def next_call(self) -> None:
        """Let named axes have other lengths from here on, as in the next batch."""
        self._lengths = {}

    def enter(self, x: Any) -> Any:
        """What the first node is given for the data that was sent."""
        return tensors.to_input(x, self.nodes) if self.differentiable and isinstance(x, list) else x

    def step(self, node: Node, x: Any, state: Any) -> Any:
        """Run one node."""
        if node.differentiable:
            x = tensors.to_input(x, self.nodes)
        return node.forward(x, state, self._lengths)

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
        fitted = [index for index, node in enumerate(self.nodes) if node.fitted_apart]
        last_needed = fitted[-1] if fitted else -1
        joint = self.differentiable and y is not None
        states: dict[str, Any] = {}
        given = x
        for index, node in enumerate(self.nodes):
            if node.fitted_apart:
                states[node.node_id] = fit(node, x, y, self._lengths)
            if joint and index >= last_needed:
                return states, None
            with tensors.no_gradients(self.nodes):
                x = self.step(node, x, states.get(node.node_id, node.state))
        if len({node.node_id for node in self.nodes}) < len(self.nodes):
            with tensors.no_gradients(self.nodes):  # one that comes twice was fitted once more
                x = self.run(given, states)
        return states, x
