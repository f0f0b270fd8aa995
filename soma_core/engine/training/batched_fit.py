"""BATCHED_FIT: fitting a chain batch by batch, over epochs, until it is done or gets no better."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from soma_core import progress
from soma_core.engine.nodes import Node
from soma_core.engine.training import tensors
from soma_core.engine.training.batches import Batches, join_outputs, shifted, size_of
from soma_core.engine.training.beginning import has_learned
from soma_core.engine.training.chain import Chain
from soma_core.engine.training.early_stopping import EarlyStopping
from soma_core.engine.training.evaluation import Evaluation
from soma_core.engine.training.fitting import fit_and_train, fit_anew, go_on, learns_on
from soma_core.engine.training.joint import MeanLoss
from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models import rows
from soma_core.models.filters import StreamMode
from soma_core.models.rows import Selection
from soma_core.protocol import commands as c

if TYPE_CHECKING:
    import torch


@dataclass
class FitOutcome:
    """What BATCHED_FIT has made so far.

    Attributes:
        result: The output of the last batch, or of all rows.
        states: What was learned last, of each node.
        losses: The mean loss of each epoch; empty if nothing was trained by gradients.
        history: A number for each epoch, by name: losses, metrics, the learning rate.
        best_epoch: The epoch from 1 after which the chain was best; None if that is not asked.
    """

    result: Any = None
    states: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    history: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: int | None = None


class FitInProgress:
    """A chain that is fitted batch by batch; it may wait between epochs, and between chunks of one.

    A node with ``partial_fit(x, y, state)`` accumulates, from what its ``initial_state(y)`` makes
    of all the targets, if it has that method; another is fitted anew on each batch, and its last
    state stands. One whose stream mode is ``Barrier`` is fitted once, before the
    first epoch, on all the data; what comes before it in the chain is fitted by then, too.

    Without an ``optimizer`` the nodes' own step; ``undo``, which undoes what was done to begin, is
    closed if not even one batch can be fitted.

    Attributes:
        epoch: The epoch that runs, or will run next, from 1.

    Raises:
        ProtocolError: ``invalid_command``: it should resume, and no node can go on.
    """

    def __init__(
        self,
        chain: Chain,
        command: c.BatchedFit,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        evaluation: Evaluation | None = None,
        stopping: EarlyStopping | None = None,
        undo: ExitStack | None = None,
    ) -> None:
        self.chain, self.command = chain, command
        self.outcome, self.epoch = FitOutcome(), 1
        self.optimizer = optimizer
        self._evaluation, self._stopping, self._undo = evaluation, stopping, undo
        self._order = np.random.default_rng(command.seed) if command.shuffle else None
        self._settled = _cannot_go_on(chain.nodes) if command.resume else set()
        self._all_targets: Any = None
        self._mean = MeanLoss()
        self._outputs: list[tuple[Selection, Any]] = []
        self._rows_before = 0
        self._position: dict[str, Any] = {}

    @property
    def finished(self) -> bool:
        """Whether there is no epoch to come."""
        if self._stopping is not None and self._stopping.stops:
            return True
        return self.epoch > self.command.epochs

    @property
    def has_learned(self) -> bool:
        """Whether a batch was fitted, so that nothing that was learned before comes back."""
        return self._undo is None

    def run_epoch(self, x: Any, y: Any) -> None:
        """Fit over one epoch."""
        with self._undone_on_failure():
            batches = Batches(x, y, self.command.batch_size)
            if self.epoch == 1:
                self._all_targets = y
                self._fit_barriers(batches)
            self._fit_batches(batches, total=batches.count)
        self.end_epoch()

    def run_chunk(self, x: Any, y: Any) -> None:
        """Fit on one chunk of the data of an epoch; :meth:`end_epoch` ends it.

        Raises:
            ProtocolError: ``invalid_command``: a node needs all the data at once.
        """
        with self._undone_on_failure():
            self._refuse_barriers()
            self._fit_batches(Batches(x, y, self.command.batch_size), total=None)

    @contextmanager
    def _undone_on_failure(self) -> Iterator[None]:
        """What fails before the first batch is fitted costs nothing that was learned before."""
        try:
            yield
        except BaseException:
            if self._undo is not None:
                self._undo.close()
            raise

    def _refuse_barriers(self) -> None:
        for node in self.chain.nodes:
            if _is_barrier(node) and node.node_id not in self._settled:
                raise ProtocolError(
                    ErrorCode.INVALID_COMMAND,
                    f"node {node.node_id!r} is a Barrier: it needs all the data at once, and "
                    "cannot be fitted on chunks of it",
                    node_id=node.node_id,
                )

    def _fit_batches(self, batches: Batches, total: int | None) -> None:
        reports = progress.is_wanted()
        may_be_last = self.epoch == self.command.epochs or self._stopping is not None
        collects = self.command.collect == "all" and may_be_last
        for chosen, x, y in batches.epoch(self._order):
            number = self._position.get("batch", 0) + 1
            self.chain.next_call()
            out, _, loss = fit_and_train(self.chain, x, y, self._fit, self.optimizer)
            self._undo = None
            self.outcome.result = out
            if loss is not None:
                self._mean.add(loss, size_of(chosen))
            if collects:
                self._outputs.append((shifted(chosen, self._rows_before), out))
            self._position = {"batch": number, "batches": total, "loss": loss}
            if reports and number != total:  # the last one is reported with what ends the epoch
                self._report({})
        self._rows_before += batches.rows

    def _fit(self, node: Node, x: Any, y: Any, lengths: dict[str, int]) -> Any:
        if node.node_id in self._settled:
            return node.state
        if not callable(getattr(node.obj, "partial_fit", None)):
            return node.fit(x, y, lengths)
        return go_on(node, x, y, lengths, self._all_targets)

    def end_epoch(self) -> dict[str, float]:
        """Measure what the epoch came to: its numbers, as the history has them."""
        rate, loss = self._learning_rate(), self._mean.value
        found = {} if self._evaluation is None else self._evaluation.run()
        self._position["batches"] = self._position.get("batch")
        if progress.is_wanted():
            self._report(found)
        if loss is not None:
            self.outcome.losses.append(loss)
            if self.optimizer is None:
                self._end_epoch_of_nodes(found.get("validation_loss", loss))
        numbers = {"loss": loss, **found, "lr": rate}
        record = {name: number for name, number in numbers.items() if number is not None}
        for name, number in record.items():
            self.outcome.history.setdefault(name, []).append(number)
        if self._stopping is not None:
            self._stopping.update(self.epoch, record)
        self.epoch += 1
        self._mean, self._position, self._rows_before = MeanLoss(), {}, 0
        if not self.finished:
            self._outputs = []
        return record

    def end(self) -> None:
        """Bring the outcome together, after the last epoch."""
        if self._stopping is not None:
            self._stopping.restore()
            self.outcome.best_epoch = self._stopping.best_epoch
        if self._outputs:
            self.outcome.result = join_outputs(self._outputs)
        self.outcome.states = {node.node_id: node.state for node in self.chain.nodes}

    def _report(self, found: dict[str, float]) -> None:
        at = {"epoch": self.epoch, "epochs": self.command.epochs}
        progress.report(**at, **self._position, mean_loss=self._mean.value, **found)

    def _learning_rate(self) -> float | None:
        owned = map(tensors.own_optimizer, self.chain.nodes)
        for optimizer in (self.optimizer, *owned):
            groups = getattr(optimizer, "param_groups", None)
            if groups:
                return float(groups[0]["lr"])
        return None

    def _end_epoch_of_nodes(self, loss: float) -> None:
        for node in self.chain.nodes:
            told = getattr(node.obj, "on_epoch_end", None)
            if node.differentiable and callable(told):
                node.call(told, loss)

    def _fit_barriers(self, batches: Batches) -> None:
        """Fit the nodes up to the last one that needs all the data at once, level by level."""
        nodes = self.chain.nodes
        places = [index for index, node in enumerate(nodes) if _is_barrier(node)]
        if not places:
            return
        x = self.chain.enter(rows.take(batches.x, slice(None)))
        for place, node in enumerate(nodes[: places[-1] + 1]):
            level = Batches(x, batches.y, batches.size)
            if node.node_id not in self._settled:
                self._fit_level(place, level)
            if node.fitted_apart:
                self._settled.add(node.node_id)
            if place < places[-1]:
                x = self._output_of(place, level)

    def _fit_level(self, place: int, level: Batches) -> None:
        node = self.chain.nodes[place]
        if _is_barrier(node):
            self.chain.next_call()
            self.chain.fit(place, level.x, level.y, fit_anew)
        elif node.fitted_apart:
            for _, x, y in level.epoch():
                self.chain.next_call()
                self.chain.fit(place, x, y, self._fit)

    def _output_of(self, place: int, level: Batches) -> Any:
        """What the node at a place makes of all the data, batch by batch."""
        node = self.chain.nodes[place]
        parts: list[tuple[Selection, Any]] = []
        for chosen, x, _ in level.epoch():
            self.chain.next_call()
            with tensors.no_gradients(self.chain.nodes):
                parts.append((chosen, self.chain.step(place, x, node.state)))
        return join_outputs(parts, f"a Barrier after node {node.node_id!r}")


def _is_barrier(node: Node) -> bool:
    return node.fitted_apart and node.meta.stream_mode is StreamMode.BARRIER


def _cannot_go_on(nodes: Sequence[Node]) -> set[str]:
    """The nodes that stay as they are where others go on: they learned, and have only ``fit``.

    Raises:
        ProtocolError: ``invalid_command``: there are no others.
    """
    learning = [node for node in nodes if node.trainable and _learns(node)]
    stay = [node for node in learning if has_learned(node) and not learns_on(node)]
    if stay and len(stay) == len(learning):
        names = ", ".join(repr(node.node_id) for node in stay)
        raise ProtocolError(
            ErrorCode.INVALID_COMMAND,
            f"resume: {names} cannot go on from what was learned: there is no partial_fit(x, y, "
            "state) and nothing to train by gradients; leave resume out, which begins anew",
        )
    return {node.node_id for node in stay}


def _learns(node: Node) -> bool:
    return node.differentiable or callable(getattr(node.obj, "fit", None))
