"""Evaluation: the loss and the metrics of a chain on data that it does not learn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soma_core.engine.training import tensors
from soma_core.engine.training.batches import Batches, join_outputs, size_of
from soma_core.engine.training.chain import Chain
from soma_core.engine.training.joint import MeanLoss, compute_loss
from soma_core.engine.training.metrics import Metric, measure
from soma_core.models import rows
from soma_core.models.rows import Selection

_BYTES_AT_ONCE = 1 << 24


class Evaluation:
    """Runs a chain on validation data, in the mode of evaluation and without autograd.

    A batch has ``batch_size`` rows at least; more where the rows are small.

    Raises:
        ProtocolError: ``invalid_command``: data and targets differ in length.
    """

    def __init__(
        self, chain: Chain, x: Any, y: Any, metrics: Mapping[str, Metric], batch_size: int
    ) -> None:
        self._chain, self._metrics = chain, metrics
        self._batches = Batches(x, y, max(batch_size, _rows_at_once(x)))

    @property
    def monitored(self) -> str | None:
        """What tells whether the chain gets better; None if nothing is measured."""
        if self._chain.differentiable:
            return "validation_loss"
        return next(iter(self._metrics), None)

    def run(self) -> dict[str, float]:
        """The loss, as ``validation_loss``, where the chain has one, and each metric by name.

        Raises:
            FilterFailed: The user's code raised.
            ProtocolError: ``filter_failed``: a metric failed.
        """
        mean = MeanLoss()
        outputs: list[tuple[Selection, Any]] = []
        with tensors.evaluating(self._chain.nodes):
            for chosen, x, y in self._batches.epoch():
                self._chain.next_call()
                out, loss = self._outcome(x, y)
                if loss is not None:
                    mean.add(loss, size_of(chosen))
                if self._metrics:
                    outputs.append((chosen, out))
        found = {} if mean.value is None else {"validation_loss": mean.value}
        if self._metrics:
            joined = join_outputs(outputs, "a metric")
            targets = rows.take(self._batches.y, slice(None))
            found |= measure(self._metrics, targets, joined)
        return found

    def _outcome(self, x: Any, y: Any) -> tuple[Any, float | None]:
        if not self._chain.differentiable:
            return self._chain.run(x, {}), None
        return compute_loss(self._chain, x, y)


def _rows_at_once(x: Any) -> int:
    """So many rows that they fill some megabytes: a small network then runs a few large batches."""
    size, shape = getattr(x, "nbytes", 0), getattr(x, "shape", ())
    return _BYTES_AT_ONCE * shape[0] // size if size and shape else 1
