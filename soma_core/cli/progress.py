"""Progress: how far a fit is, as a live bar in a terminal and as plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["FitProgress"]

_LINES = 5  # at most about so many plain lines for one fit


class FitProgress:
    """Shows what a filter reports while it is fitted. Call it with each report.

    Args:
        console: Where to show it.
        title: What is being fitted.
        rows: How many rows an epoch has, for the rate; None shows none.
    """

    def __init__(self, console: Console, title: str, rows: int | None = None) -> None:
        self._console = console
        self._title = title
        self._rows = rows
        self._started = time.perf_counter()
        self._told = 0
        self._bar = _bar(console) if console.is_terminal else None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(
                escape(self._title), total=None, epoch="", loss="", rate=""
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, report: dict[str, Any]) -> None:
        """Show one report; what it does not hold is not shown."""
        epoch, epochs = report.get("epoch"), report.get("epochs")
        if not isinstance(epoch, int) or not isinstance(epochs, int):
            return
        batch, batches = report.get("batch", 1), report.get("batches", 1)
        done = epoch - 1 + batch / batches
        if self._bar is not None and self._task is not None:
            fields = self._fields(report, epoch, epochs, done)
            self._bar.update(self._task, completed=done, total=epochs, **fields)
        elif batch == batches and self._is_due(epoch, epochs):
            fields = self._fields(report, epoch, epochs, done)
            text = "  ".join(part for part in fields.values() if part)
            self._console.print(f"  {self._title}: {text}", markup=False, highlight=False)

    def _is_due(self, epoch: int, epochs: int) -> bool:
        share = epoch * _LINES // epochs
        due = share > self._told or epoch == epochs
        self._told = share
        return due

    def _fields(
        self, report: dict[str, Any], epoch: int, epochs: int, done: float
    ) -> dict[str, Any]:
        loss = report.get("loss")
        return {
            "epoch": f"epoch {epoch:>{len(str(epochs))}}/{epochs}",
            "loss": f"loss {loss:.4f}" if isinstance(loss, int | float) else "",
            "rate": self._rate(done),
        }

    def _rate(self, done: float) -> str:
        seconds = time.perf_counter() - self._started
        if self._rows is None or seconds <= 0:
            return ""
        return f"{done * self._rows / seconds:,.0f} rows/s"


def _bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[epoch]}"),
        TextColumn("[magenta]{task.fields[loss]}"),
        TextColumn("[cyan]{task.fields[rate]}"),
        TimeElapsedColumn(),
        console=console,
    )
