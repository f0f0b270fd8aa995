"""COMPOSITE_FIT and BATCHED_FIT: fitting a chain at once, or batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from soma_core import progress
from soma_core.engine.nodes import Node
from soma_core.engine.training import tensors
from soma_core.engine.training.batches import Batches, join_outputs, size_of
from soma_core.engine.training.chain import Chain, Fit
from soma_core.engine.training.joint import train_step
from soma_core.models.filters import StreamMode
from soma_core.models.rows import Selection

if TYPE_CHECKING:
    import torch

__all__ = ["BatchedOutcome", "fit_batches", "fit_once"]


def fit_once(
    chain: Chain, x: Any, y: Any, optimizer: torch.optim.Optimizer | None = None
) -> tuple[Any, dict[str, Any], float | None]:
    """Fit the nodes one by one, then train the differentiable ones together on one batch.

    Args:
        chain: The nodes.
        x: The data.
        y: The targets; without them nothing is trained by gradients.
        optimizer: Steps the whole chain; None leaves it to the nodes' own.

    Returns:
        The output, the states of the nodes that were fitted apart, and the loss or None.
    """
    return _fit_and_train(chain, x, y, _fit_anew, optimizer)


def _fit_anew(node: Node, x: Any, y: Any, lengths: dict[str, int]) -> Any:
    return node.fit(x, y, lengths)


def _fit_and_train(
    chain: Chain, x: Any, y: Any, fit: Fit, optimizer: torch.optim.Optimizer | None
) -> tuple[Any, dict[str, Any], float | None]:
    states, out = chain.fit_each(x, y, fit)
    if not chain.differentiable or y is None:
        return out, states, None
    out, loss = train_step(chain, x, y, optimizer)
    return out, states, loss


@dataclass
class BatchedOutcome:
    """What BATCHED_FIT made: the output, the last states, the mean loss of each epoch."""

    result: Any = None
    states: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)


def fit_batches(
    chain: Chain,
    batches: Batches,
    *,
    epochs: int = 1,
    shuffle: bool = False,
    seed: int | None = None,
    collect_all: bool = False,
    optimizer: torch.optim.Optimizer | None = None,
) -> BatchedOutcome:
    """Fit a chain batch by batch, over epochs.

    A node with ``partial_fit(x, y, state)`` accumulates, from what its ``initial_state(y)`` makes
    of all the targets, if it has that method; another is fitted anew on each batch, and its last
    state stands. One whose stream mode is ``Barrier`` is fitted once, before the
    first epoch, on all the data; what comes before it in the chain is fitted by then, too.

    Args:
        chain: The nodes.
        batches: The data and targets.
        epochs: How often to go through them.
        shuffle: Whether to draw another order of rows in each epoch.
        seed: Makes those orders repeatable.
        collect_all: Whether to keep the outputs of all rows of the last epoch.
        optimizer: Steps the whole chain; None leaves it to the nodes' own.
    """
    order = np.random.default_rng(seed) if shuffle else None
    outcome = BatchedOutcome()
    fit = _BatchFit(batches.y)
    told = progress.is_wanted()
    _fit_barriers(chain, batches, fit)
    for epoch in range(1, epochs + 1):
        mean = _MeanLoss()
        outputs: list[tuple[Selection, Any]] = []
        for number, (chosen, x, y) in enumerate(batches.epoch(order), start=1):
            chain.next_call()
            outcome.result, outcome.states, loss = _fit_and_train(chain, x, y, fit, optimizer)
            if loss is not None:
                mean.add(loss, max(1, size_of(chosen)))
            if collect_all and epoch == epochs:
                outputs.append((chosen, outcome.result))
            if told:
                progress.report(
                    epoch=epoch,
                    epochs=epochs,
                    batch=number,
                    batches=batches.count,
                    loss=loss,
                    mean_loss=mean.value,
                )
        if mean.value is not None:
            outcome.losses.append(mean.value)
            if optimizer is None:
                _end_epoch(chain, mean.value)
    if collect_all:
        outcome.result = join_outputs(outputs)
    outcome.states = {
        node.node_id: outcome.states.get(node.node_id, node.state) for node in chain.nodes
    }
    return outcome


def _end_epoch(chain: Chain, loss: float) -> None:
    for node in chain.nodes:
        if node.trained_jointly:
            node.call(node.obj.on_epoch_end, loss)


class _MeanLoss:
    """The mean over the rows of an epoch so far: a short last batch counts for what it holds."""

    def __init__(self) -> None:
        self._sum, self._rows = 0.0, 0

    def add(self, loss: float, rows: int) -> None:
        self._sum += rows * loss
        self._rows += rows

    @property
    def value(self) -> float | None:
        """None where no batch had a loss."""
        return self._sum / self._rows if self._rows else None


class _BatchFit:
    """Fits one node on one batch, going on from the last batch where the node can.

    Args:
        y: The targets of all batches.

    Attributes:
        finished: The nodes that are fitted no more.
    """

    def __init__(self, y: Any) -> None:
        self._y = y
        self._states: dict[str, Any] = {}
        self.finished: set[str] = set()

    def __call__(self, node: Node, x: Any, y: Any, lengths: dict[str, int]) -> Any:
        if node.node_id in self.finished:
            return node.state
        if not callable(getattr(node.obj, "partial_fit", None)):
            return node.fit(x, y, lengths)
        state = node.partial_fit(x, y, self._reached(node), lengths)
        self._states[node.node_id] = state
        return state

    def _reached(self, node: Node) -> Any:
        """The state after the last batch; before the first, what the node makes of all targets."""
        if node.node_id in self._states:
            return self._states[node.node_id]
        begin = getattr(node.obj, "initial_state", None)
        return node.call(begin, self._y) if callable(begin) else {}


def _fit_barriers(chain: Chain, batches: Batches, fit: _BatchFit) -> None:
    """Fit the nodes up to the last one that needs all the data at once, level by level."""
    places = [index for index, node in enumerate(chain.nodes) if _is_barrier(node)]
    if not places:
        return
    x = chain.enter(batches.x)
    for place, node in enumerate(chain.nodes[: places[-1] + 1]):
        level = Batches(x, batches.y, batches.size)
        if _is_barrier(node):
            chain.next_call()
            chain.fit(place, x, batches.y, _fit_anew)
        elif node.fitted_apart:
            for _, rows_x, rows_y in level.epoch():
                chain.next_call()
                chain.fit(place, rows_x, rows_y, fit)
        if node.fitted_apart:
            fit.finished.add(node.node_id)
        if place < places[-1]:
            x = _passed_on(chain, place, level)


def _is_barrier(node: Node) -> bool:
    return node.fitted_apart and node.meta.stream_mode is StreamMode.BARRIER


def _passed_on(chain: Chain, place: int, level: Batches) -> Any:
    """What the node at a place makes of all the data, batch by batch."""
    node = chain.nodes[place]
    parts: list[tuple[Selection, Any]] = []
    for chosen, x, _ in level.epoch():
        chain.next_call()
        with tensors.no_gradients(chain.nodes):
            parts.append((chosen, chain.step(place, x, node.state)))
    return join_outputs(parts, f"a Barrier after node {node.node_id!r}")
