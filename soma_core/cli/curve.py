"""Curve: losses and metrics of a fit as they were reported, and their picture in text."""

from __future__ import annotations

from fractions import Fraction
from math import isfinite

from rich.text import Text

from soma_core.client.progress.estimate import TrainingProgress, format_number
from soma_core.progress import Report

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT = 60, 6  # characters


class Curve:
    """The losses and metrics of a fit. Call it with each report.

    Where several filters report one after the other, the curve is that of the last.

    Attributes:
        batches: How many epochs were done, with a fraction, and the loss that was reported then.
        epochs: The loss of each epoch: its mean where that was reported, else the newest.
        metrics: By name, other numbers that were reported, the newest of each epoch: the loss
            and the metrics of the validation, or what a filter reports of itself.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.batches: list[tuple[float, float]] = []
        self.epochs: dict[int, float] = {}
        self.metrics: dict[str, dict[int, float]] = {}
        self._done = Fraction(0)

    def __call__(self, report: Report) -> None:
        """Add the numbers of a report."""
        progress = TrainingProgress.from_report(report)
        if progress is None or (progress.epoch_loss is None and not progress.metrics):
            return
        if progress.fraction < self._done:
            self.batches, self.epochs, self.metrics = [], {}, {}
        self._done = progress.fraction
        if progress.epoch_loss is not None:
            self.epochs[progress.epoch] = progress.epoch_loss
        if progress.loss is not None:
            self.batches.append((float(progress.epochs_done), progress.loss))
        for name, number in progress.metrics.items():
            self.metrics.setdefault(name, {})[progress.epoch] = number

    def __bool__(self) -> bool:
        return bool(self.epochs or self.metrics)


def text_plot(curve: Curve, width: int = _WIDTH, height: int = _HEIGHT) -> Text:
    """A curve as blocks over an axis of epochs, between its highest loss and 0 or its lowest.

    At least one epoch of it is known.
    """
    losses = list(curve.epochs.values())
    finite = [loss for loss in losses if isfinite(loss)]
    top, bottom = max(finite, default=1.0), min([0.0, *finite])
    labels = [format_number(top), *[""] * (height - 2), format_number(bottom) if bottom else "0"]
    margin = max(map(len, labels))
    columns = [_column(losses, place, width) for place in range(width)]
    levels = [_level(loss, bottom, top, 8 * height) for loss in columns]
    changes = {f"{curve.title}: loss": curve.epochs} | curve.metrics
    picture = Text(", ".join(_change(name, numbers) for name, numbers in changes.items()))
    picture.append("\n")
    for line, label in enumerate(labels):
        floor = 8 * (height - 1 - line)
        cells = "".join(_EIGHTHS[max(0, min(8, level - floor))] for level in levels)
        picture.append(f"{label:>{margin}} │", "dim").append(cells.rstrip() + "\n", "magenta")
    first, last = min(curve.epochs), max(curve.epochs)
    return picture.append(f"{'':>{margin}}  {first:<{width - len(str(last))}}{last} epochs", "dim")


def _change(name: str, numbers: dict[int, float]) -> str:
    """What a number was after the first epoch and after the last."""
    values = list(numbers.values())
    return f"{name} {format_number(values[0])} → {format_number(values[-1])}"


def _column(losses: list[float], place: int, width: int) -> float | None:
    """The mean of the finite losses that share a column; None if there is none."""
    start = place * len(losses) // width
    end = max(start + 1, (place + 1) * len(losses) // width)
    shared = [loss for loss in losses[start:end] if isfinite(loss)]
    return sum(shared) / len(shared) if shared else None


def _level(loss: float | None, bottom: float, top: float, levels: int) -> int:
    """How high a loss stands, from 1 where there is one at all; 0 where there is none."""
    if loss is None:
        return 0
    share = (loss - bottom) / (top - bottom) if top > bottom else 0.0
    return max(1, round(share * levels))
