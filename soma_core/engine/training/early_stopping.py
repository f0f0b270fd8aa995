"""Early stopping: when a chain gets no better, and what it was at its best."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from soma_core.engine.nodes import Node
from soma_core.engine.training.beginning import capture_weights
from soma_core.engine.training.states import take_over


class EarlyStopping:
    """Watches one number over the epochs, and keeps the chain as it was when that was best.

    Args:
        nodes: The chain.
        monitored: The name of the number: losses are better when they are lower, metrics when
            they are higher. A number that is not finite is never better.
        patience: After how many epochs without a better one to stop; None never stops.
        restore_best: Whether the chain is put back as it was after its best epoch.

    Attributes:
        best_epoch: The best epoch so far; None before the first.
        stops: Whether the chain has got no better for too long.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        monitored: str,
        *,
        patience: int | None = None,
        restore_best: bool = False,
    ) -> None:
        self._nodes, self._monitored = nodes, monitored
        self._patience, self._restore_best = patience, restore_best
        self._sign = -1.0 if monitored in ("loss", "validation_loss") else 1.0
        self._best = float("-inf")
        self._kept: list[Callable[[], None]] = []
        self.best_epoch: int | None = None
        self.stops = False

    def update(self, epoch: int, record: Mapping[str, float]) -> None:
        """Note what an epoch came to."""
        value = self._sign * record.get(self._monitored, float("nan"))
        if value > self._best and value < float("inf"):
            self._best, self.best_epoch = value, epoch
            if self._restore_best:
                self._kept = []  # free the last one before the next is made
                self._kept = [_keep(node) for node in self._nodes if node.trainable]
        waited = epoch - (self.best_epoch or 0)
        self.stops = self._patience is not None and waited >= self._patience

    def restore(self) -> None:
        """Put the chain back as it was after its best epoch, if that was asked for."""
        for put_back in self._kept:
            put_back()


def _keep(node: Node) -> Callable[[], None]:
    if node.learned_inside and not node.differentiable:
        return _keep_object(node)
    put_weights = capture_weights(node)
    state: Any = copy.deepcopy(node.state)

    def put_back() -> None:
        put_weights()
        node.state = state

    return put_back


def _keep_object(node: Node) -> Callable[[], None]:
    kept = node.call(copy.deepcopy, node.obj)
    is_state = node.state is node.obj

    def put_back() -> None:
        take_over(node, kept)
        if is_state:
            node.state = node.obj

    return put_back
