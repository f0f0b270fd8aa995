"""Display: what the demo shows of digits, runs and deaths."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from soma_core.cli.curve import text_plot
from soma_core.cli.demo.digits import SIDE, Digits
from soma_core.cli.demo.training import TrainingRun

_SHADES = " ░▒▓█"
_DARKEST = 16  # the value of a black pixel
_SHOWN = 5
_MOST_MISTAKES = 8

Array = np.ndarray[Any, Any]


def show_section(console: Console, title: str) -> None:
    """The title of what comes next."""
    console.print()
    console.print(Text(title, "bold cyan"))


def show_runs(console: Console, runs: list[TrainingRun], digits: Digits) -> None:
    """A row for each transport."""
    table = Table(title_justify="left", header_style="bold")
    table.add_column("transport", style="cyan")
    for column in ("pid", "start-up", "calls/s", "accuracy"):
        table.add_column(column, justify="right")
    table.add_column("predictions")
    for run in runs:
        table.add_row(
            run.transport,
            str(run.pid),
            f"{run.start_up:.2f} s",
            f"{run.calls:,.0f}",
            f"{digits.accuracy(run.predicted):.2%}",
            _comparison(run, runs[0]),
        )
    console.print(table)


def _comparison(run: TrainingRun, first: TrainingRun) -> str:
    if run is first:
        return f"of {len(run.output)} images"
    if np.array_equal(run.output, first.output):
        return "identical, bit for bit"
    differing = int((run.predicted != first.predicted).sum())
    return f"{differing} digits differ from {first.transport}"


def show_curves(console: Console, runs: list[TrainingRun]) -> None:
    """The loss of each epoch over the first transport, and whether the others had the same."""
    first, *others = (run.curve for run in runs)
    console.print(text_plot(first))
    if others and all(curve.epochs == first.epochs for curve in others):
        names = " and ".join(run.transport for run in runs[1:])
        console.print(f"Over {names} every epoch had the same loss, to the last bit.")


def show_readings(console: Console, digits: Digits, predicted: Array) -> None:
    """A few test images as they look, misread ones first, and what was taken for what."""
    wrong = np.flatnonzero(predicted != digits.y_test)
    right = np.flatnonzero(predicted == digits.y_test)
    _, one_of_each = np.unique(digits.y_test[right], return_index=True)
    chosen = [*wrong[: _SHOWN // 2], *right[one_of_each]][:_SHOWN]
    draw = _draw_in_color if console.is_terminal else _draw_in_shades
    pictures = [draw(digits.x_test[index].reshape(SIDE, SIDE)) for index in chosen]
    captions = [_caption(predicted[index], digits.y_test[index]) for index in chosen]
    grid = Table.grid(padding=(0, 3))
    grid.add_row(*pictures)
    grid.add_row(*captions)
    console.print(grid)
    console.print(_mistakes(digits.y_test[wrong], predicted[wrong], len(predicted)))


def _draw_in_color(image: Array) -> Text:
    """Two pixels in a character: the upper half's colour over the lower half's."""
    picture = Text()
    for row in range(0, SIDE, 2):
        for upper, lower in zip(image[row], image[row + 1], strict=True):
            picture.append("▀▀", f"{_grey(upper)} on {_grey(lower)}")
        picture.append("\n")
    return picture


def _grey(pixel: float) -> str:
    level = round(255 * pixel / _DARKEST)
    return f"rgb({level},{level},{level})"


def _draw_in_shades(image: Array) -> Text:
    """Two characters for a pixel, as dense as it is dark."""
    levels = np.rint(image / _DARKEST * (len(_SHADES) - 1)).astype(int)
    return Text("\n".join("".join(_SHADES[level] * 2 for level in row) for row in levels) + "\n")


def _caption(read: int, shown: int) -> Text:
    if read == shown:
        return Text(f"a {read} ✓", "green")
    return Text(f"a {shown}, read as {read} ✗", "red")


def _mistakes(shown: Array, read: Array, total: int) -> Text:
    if not len(shown):
        return Text(f"All {total} test images were read right.")
    pairs = Counter(zip(shown.tolist(), read.tolist(), strict=True)).most_common()
    listed = ", ".join(
        f"{was} as {taken}" + (f" ({count} times)" if count > 1 else "")
        for (was, taken), count in pairs[:_MOST_MISTAKES]
    )
    more = ", …" if len(pairs) > _MOST_MISTAKES else ""
    were = "was" if len(shown) == 1 else "were"
    return Text(f"{len(shown)} of {total} test images {were} misread: {listed}{more}")


def show_where_imported(console: Console) -> None:
    """Which heavy packages this process has imported, if any."""
    here = [name for name in ("torch", "sklearn") if name in sys.modules]
    if here:
        console.print(f"This process has imported {' and '.join(here)}: a worker ran inside it.")
    else:
        console.print("This process has imported neither torch nor sklearn.")
