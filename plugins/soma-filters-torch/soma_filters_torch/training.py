"""Training: passes over the data in minibatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from soma_core import progress

Step = Callable[[Any, torch.Tensor], torch.Tensor]


def train(
    x: Any,
    y: torch.Tensor,
    step: Step,
    end_epoch: Callable[[float], None],
    *,
    epochs: int,
    batch_size: int,
    shuffle: bool,
) -> None:
    """Go through the data, one optimizer step for each batch, each of which is reported.

    Args:
        x: The data, a tensor or a dict of tensors; their first axis is the rows.
        y: The targets of the same rows.
        step: Trains on one batch and returns the loss.
        end_epoch: Called after each epoch with its mean loss.
        epochs: How often.
        batch_size: Rows in a batch; the last one may be shorter.
        shuffle: Whether to draw another order of rows for each epoch.

    Raises:
        ValueError: ``x`` and ``y`` do not have the same number of rows, or there are none.
    """
    _check_rows(x, y)
    starts = range(0, len(y), batch_size)
    for epoch in range(1, epochs + 1):
        mean = _Mean()
        order = torch.randperm(len(y)) if shuffle else None
        for batch, start in enumerate(starts, 1):
            rows = slice(start, start + batch_size)
            chosen = rows if order is None else order[rows]
            wanted = y[chosen]
            loss = step(_take(x, chosen), wanted).detach()
            mean.add(loss, len(wanted))
            if progress.is_wanted():  # reading a loss waits for the device
                progress.report(
                    epoch=epoch,
                    epochs=epochs,
                    batch=batch,
                    batches=len(starts),
                    loss=float(loss),
                    mean_loss=mean.value,
                )
        end_epoch(mean.value)


class _Mean:
    """The mean over rows, summed where the losses are: a short last batch counts for its rows."""

    def __init__(self) -> None:
        self._sum: torch.Tensor | float = 0.0
        self._rows = 0

    def add(self, loss: torch.Tensor, rows: int) -> None:
        self._sum = self._sum + loss.double() * rows
        self._rows += rows

    @property
    def value(self) -> float:
        return float(self._sum) / self._rows


def _take(x: Any, rows: torch.Tensor | slice) -> Any:
    if isinstance(x, dict):
        return {key: item[rows] for key, item in x.items()}
    return x[rows]


def _check_rows(x: Any, y: torch.Tensor) -> None:
    columns = x if isinstance(x, dict) else {"x": x}
    shapes = {name: list(column.shape) for name, column in columns.items()}
    if y.ndim == 0 or any(shape[:1] != [len(y)] for shape in shapes.values()):
        listed = ", ".join(f"{name} has shape {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"{listed} and y {list(y.shape)}; training needs one target for each row of x"
        )
    if len(y) == 0:
        raise ValueError(f"there is nothing to learn from: y has shape {list(y.shape)}")
