"""Training: passes over the data in minibatches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from soma_core import progress

__all__ = ["Schedule", "train"]

Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_SECONDS_BETWEEN_REPORTS = 0.1  # reading a loss waits for the device, so not after every batch


@dataclass(frozen=True)
class Schedule:
    """How often and in what pieces to go through the data.

    Attributes:
        epochs: How often.
        batch_size: Rows in a piece; the last one may be shorter.
        shuffle: Whether to draw another order of rows for each epoch.
    """

    epochs: int
    batch_size: int
    shuffle: bool

    def batches(self, rows: int) -> int:
        """How many pieces that many rows make."""
        return -(-rows // self.batch_size)


def train(x: torch.Tensor, y: torch.Tensor, schedule: Schedule, step: Step) -> None:
    """Go through the data, one optimizer step for each batch, reporting progress.

    Args:
        x: The data; its first axis is the rows.
        y: The targets of the same rows.
        schedule: How often and in what pieces.
        step: Trains on one batch and returns the loss.

    Raises:
        ValueError: ``x`` and ``y`` do not have the same number of rows, or there are none.
    """
    _check_rows(x, y)
    reporter = _Reporter(schedule.epochs, schedule.batches(len(x)))
    for epoch in range(1, schedule.epochs + 1):
        for batch, rows in enumerate(_pieces(len(x), schedule), start=1):
            loss = step(x[rows], y[rows])
            reporter.after(epoch, batch, loss)


def _check_rows(x: torch.Tensor, y: torch.Tensor) -> None:
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ValueError(
            f"x has shape {list(x.shape)} and y {list(y.shape)}; training needs one target for "
            "each row of x"
        )
    if len(x) == 0:
        raise ValueError(f"there is nothing to learn from: x has shape {list(x.shape)}")


def _pieces(rows: int, schedule: Schedule) -> Iterator[torch.Tensor | slice]:
    order = torch.randperm(rows) if schedule.shuffle else None
    for start in range(0, rows, schedule.batch_size):
        piece = slice(start, start + schedule.batch_size)
        yield piece if order is None else order[piece]


class _Reporter:
    """Reports the last batch of each epoch, and others as time passes."""

    def __init__(self, epochs: int, batches: int) -> None:
        self._epochs = epochs
        self._batches = batches
        self._next_report = time.monotonic() + _SECONDS_BETWEEN_REPORTS

    def after(self, epoch: int, batch: int, loss: torch.Tensor) -> None:
        now = time.monotonic()
        if batch < self._batches and now < self._next_report:
            return
        self._next_report = now + _SECONDS_BETWEEN_REPORTS
        progress.report(
            epoch=epoch,
            epochs=self._epochs,
            batch=batch,
            batches=self._batches,
            loss=float(loss.detach()),
        )
