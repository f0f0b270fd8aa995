"""TrainingProgress: how far a fit is, as a filter's report says."""

from __future__ import annotations

from fractions import Fraction
from numbers import Integral, Real
from typing import Any, NamedTuple

from soma_core.progress import Report

_NO_METRICS = frozenset({"epoch", "epochs", "batch", "batches", "loss", "mean_loss"})


class TrainingProgress(NamedTuple):
    """How far a fit is, as a report says.

    Attributes:
        epoch: The epoch that runs, from 1.
        epochs: How many there are.
        batch: The batch of the epoch that is done, from 1.
        batches: How many there are; None if that is not known.
        loss: The newest loss, as of one batch; None if there is none.
        mean_loss: The mean loss of the epoch so far, where it is reported.
        metrics: The other numbers that are reported, by name.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int | None
    loss: float | None
    mean_loss: float | None
    metrics: dict[str, float]

    @classmethod
    def from_report(cls, report: Report) -> TrainingProgress | None:
        """What a report says; None where it does not say how far the fit is.

        A filter may report anything, and nothing that it reports may end its training.
        """
        by_epochs, by_batches = _part(report, "epoch", "epochs"), _part(report, "batch", "batches")
        if not (by_epochs or by_batches) or () in (by_epochs, by_batches):
            return None
        epoch, epochs = by_epochs or (1, 1)
        if epochs is None:
            return None
        losses = _real(report.get("loss")), _real(report.get("mean_loss"))
        others = {str(name): _real(report[name]) for name in report if name not in _NO_METRICS}
        metrics = {name: number for name, number in others.items() if number is not None}
        return cls(epoch, epochs, *(by_batches or (1, 1)), *losses, metrics)

    @property
    def epoch_loss(self) -> float | None:
        """What is known of the loss of the epoch: its mean, else the newest loss."""
        return self.loss if self.mean_loss is None else self.mean_loss

    @property
    def epochs_done(self) -> Fraction:
        """The epochs that are done, with the part of the one that runs where that is known."""
        part = Fraction(0) if self.batches is None else Fraction(self.batch, self.batches)
        return self.epoch - 1 + part

    @property
    def fraction(self) -> Fraction:
        """How much of the whole fit is done, from 0 to 1."""
        return self.epochs_done / self.epochs


def format_number(number: float) -> str:
    """A loss or a metric: ``0.1234``; ``1.234e-06`` where that would show nothing or too much."""
    return f"{number:.4f}" if number == 0 or 1e-3 <= abs(number) < 1e6 else f"{number:.3e}"


def _part(report: Report, number: str, total: str) -> tuple[int, int | None] | tuple[()] | None:
    """Which one of how many; None where the report does not say, () where it makes no sense."""
    if number not in report and total not in report:
        return None
    found, of = report.get(number), report.get(total)
    if not isinstance(found, Integral) or int(found) < 1:
        return ()
    if of is None:
        return int(found), None
    return (int(found), int(of)) if isinstance(of, Integral) and found <= of else ()


def _real(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, Real) else None
    except OverflowError:
        return None
