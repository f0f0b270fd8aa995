"""TrainingProgress: how far a fit is, as a filter's report says."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, NamedTuple

__all__ = ["TrainingProgress", "format_loss"]

Report = dict[str, Any]


class TrainingProgress(NamedTuple):
    """How far a fit is, as a report says.

    Attributes:
        epoch: The epoch that runs, from 1.
        epochs: How many there are.
        batch: The batch of the epoch that is done, from 1.
        batches: How many there are.
        loss: The newest loss, as of one batch; None if there is none.
        mean_loss: The mean loss of the epoch so far, where it is reported.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float | None
    mean_loss: float | None

    @classmethod
    def from_report(cls, report: Report) -> TrainingProgress | None:
        """What a report says; None where it does not tell how far the fit is.

        A filter may report anything, and nothing that it reports may end its training.
        """
        by_epochs, by_batches = _part(report, "epoch", "epochs"), _part(report, "batch", "batches")
        if not (by_epochs or by_batches) or () in (by_epochs, by_batches):
            return None
        losses = _real(report.get("loss")), _real(report.get("mean_loss"))
        return cls(*(by_epochs or (1, 1)), *(by_batches or (1, 1)), *losses)

    @property
    def epoch_loss(self) -> float | None:
        """What is known of the loss of the epoch: its mean, else the newest loss."""
        return self.loss if self.mean_loss is None else self.mean_loss

    @property
    def done(self) -> int:
        """The batches that are done, of all epochs."""
        return (self.epoch - 1) * self.batches + self.batch

    @property
    def total(self) -> int:
        """The batches that there are, in all epochs."""
        return self.epochs * self.batches


def format_loss(loss: float) -> str:
    """A loss as text: ``0.1234``; ``1.234e-06`` where that would show nothing or too much."""
    return f"{loss:.4f}" if loss == 0 or 1e-3 <= abs(loss) < 1e6 else f"{loss:.3e}"


def _part(report: Report, number: str, total: str) -> tuple[int, int] | tuple[()] | None:
    """Which one of how many; None where the report does not say, () where it makes no sense."""
    if number not in report and total not in report:
        return None
    found, of = report.get(number), report.get(total)
    if not isinstance(found, Integral) or not isinstance(of, Integral):
        return ()
    return (int(found), int(of)) if 1 <= int(found) <= int(of) else ()


def _real(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, Real) else None
    except OverflowError:
        return None
