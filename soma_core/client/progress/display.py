"""The screen's view of a fit: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from fractions import Fraction
from typing import Any, Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from soma_core.client.plain_console import PlainConsole
from soma_core.client.progress.estimate import TrainingProgress, format_number

_LINES = 5  # about so many plain lines for one fit
_PAUSE = 0.05  # seconds: more often than the eye can tell would only cost time
_TEXTS = 70  # columns of a bar's line that are not the bar or the title


class ProgressDisplay:
    """Shows what a filter reports while it is fitted. Call it with each report.

    Args:
        console: Where to show it.
        title: What is being fitted.
        rows: How many rows an epoch has, for the rate; None shows none.
        pause: Seconds between two changes of a bar, at the least.
    """

    def __init__(
        self, console: Console, title: str, rows: int | None = None, *, pause: float = _PAUSE
    ) -> None:
        self._title = title
        self._rows = rows
        self._started = time.perf_counter()
        self._view: _Bar | _Lines = (
            _Bar(console, title, pause) if console.is_terminal else _Lines(console, title)
        )

    @classmethod
    def on_stderr(cls, title: str, rows: int | None = None) -> Self:
        """One that leaves stdout to the program."""
        return cls(PlainConsole(stderr=True), title, rows)

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        self._view.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._view.stop()

    def __call__(self, report: dict[str, Any]) -> None:
        """Show one report; what it does not hold is not shown."""
        progress = TrainingProgress.from_report(report)
        if progress is not None and self._view.is_due(progress):
            self._view.show(progress, self._texts(progress))

    def _texts(self, progress: TrainingProgress) -> dict[str, Any]:
        loss = progress.epoch_loss
        numbers = {} if loss is None else {"loss": loss}
        numbers |= progress.metrics
        shown = [f"{name} {format_number(number)}" for name, number in numbers.items()]
        several = progress.batches != 1
        return {
            "epoch": "epoch " + _number_of(progress.epoch, progress.epochs),
            "batch": "batch " + _number_of(progress.batch, progress.batches) if several else "",
            "numbers": "  ".join(shown),
            "rate": self._rate(progress),
        }

    def _rate(self, progress: TrainingProgress) -> str:
        seconds = time.perf_counter() - self._started
        if self._rows is None or seconds <= 0:
            return ""
        return f"{float(progress.epochs_done) * self._rows / seconds:,.0f} rows/s"


def _number_of(number: int, total: int | None) -> str:
    return str(number) if total is None else f"{number:>{len(str(total))}}/{total}"


class _Lines:
    """A few lines for a fit, for a file or a log."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._shown = 0

    def start(self) -> None:
        """Nothing to show yet."""

    def stop(self) -> None:
        """Each line is complete by itself."""

    def is_due(self, progress: TrainingProgress) -> bool:
        share = int(progress.fraction * _LINES)
        if share < self._shown:  # another filter of a chain begins
            self._shown = 0
        due = share > self._shown
        self._shown = share % _LINES
        return due

    def show(self, progress: TrainingProgress, texts: dict[str, Any]) -> None:
        text = "  ".join(part for part in texts.values() if part)
        line = f"{self._title}: {text}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Bar:
    """A line that changes in place."""

    def __init__(self, console: Console, title: str, pause: float) -> None:
        self._pause = pause
        self._next_update = 0.0
        self._done = Fraction(0)
        self._bar = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=max(6, min(28, console.width - _TEXTS - len(title)))),
            TextColumn("{task.fields[epoch]}"),
            TextColumn("{task.fields[batch]}"),
            TextColumn("[magenta]{task.fields[numbers]}"),
            TextColumn("[cyan]{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=console,
            # What the program writes meanwhile stays above the bar, or where it was sent to.
            redirect_stdout=_is_terminal(sys.stdout),
            redirect_stderr=_is_terminal(sys.stderr),
        )
        empty: dict[str, Any] = {"epoch": "", "batch": "", "numbers": "", "rate": ""}
        self._task = self._bar.add_task(escape(title), total=None, **empty)

    def start(self) -> None:
        self._bar.start()

    def stop(self) -> None:
        self._bar.stop()

    def is_due(self, progress: TrainingProgress) -> bool:
        return progress.fraction == 1 or time.perf_counter() >= self._next_update

    def show(self, progress: TrainingProgress, texts: dict[str, Any]) -> None:
        self._next_update = time.perf_counter() + self._pause
        if progress.fraction < self._done:  # another filter of a chain begins
            self._bar.reset(self._task)
        self._done = progress.fraction
        self._bar.update(self._task, completed=float(self._done), total=1.0, **texts)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()
