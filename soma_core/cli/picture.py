"""Picture: curves of losses and metrics drawn into a file, by matplotlib where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soma_core.cli.console import CommandFailed
from soma_core.cli.curve import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SUFFIXES = (".png", ".svg", ".pdf")
_SIZE = (5.6, 3.6)  # inches, for one curve

PictureFile = Annotated[
    Path | None,
    typer.Option(help="Draw the training curve into this file (.png, .svg or .pdf)."),
]
"""The option ``--curve`` of a command that trains."""


def check_drawing(path: Path) -> None:
    """Make sure before the training that its picture can be drawn after it.

    Raises:
        CommandFailed: matplotlib is not installed, or the file is to be of another kind.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise CommandFailed(f"--curve: {str(path)!r} should end in {', '.join(_SUFFIXES)}")
    if find_spec("matplotlib") is None:
        raise CommandFailed(
            "--curve draws with matplotlib, which is not installed; run: "
            "pip install 'soma-core[plot]'"
        )


def draw_curves(curves: Sequence[Curve], path: Path) -> None:
    """Draw curves side by side into a file, which is replaced.

    Raises:
        CommandFailed: No loss was reported, or the file cannot be written.
    """
    known = [curve for curve in curves if curve]
    if not known:
        raise CommandFailed(f"--curve: no filter reported a loss, so that {path} was not drawn")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure_of(known).savefig(path, dpi=120)
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror or error}") from None


def figure_of(curves: Sequence[Curve]) -> Figure:
    """A figure of curves side by side; it has nothing to do with those of pyplot."""
    from matplotlib.figure import Figure

    width, height = _SIZE
    figure = Figure(figsize=(width * len(curves), height), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        _draw(axes, curve)
    return figure


def _draw(axes: Axes, curve: Curve) -> None:
    """Losses on the left axis; other metrics, if there are any, on the right one."""
    from matplotlib.ticker import MaxNLocator

    if len(curve.batches) > len(curve.epochs):
        axes.plot(*zip(*curve.batches, strict=True), alpha=0.3, label="batches")
    if curve.epochs:
        axes.plot(*zip(*curve.epochs.items(), strict=True), marker=".", label="epochs")
    others = {
        name: numbers
        for name, numbers in curve.metrics.items()
        if name != "loss" and not name.endswith("_loss")
    }
    for name in curve.metrics.keys() - others.keys():
        axes.plot(*zip(*curve.metrics[name].items(), strict=True), marker=".", label=name)
    axes.set(title=curve.title, xlabel="epoch", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.grid(alpha=0.3)
    if not others:
        axes.legend()
        return
    right, lines = axes.twinx(), axes.get_lines()
    right.set_ylabel(", ".join(others))
    for color, (name, numbers) in enumerate(others.items(), start=len(lines)):
        points = zip(*numbers.items(), strict=True)
        right.plot(*points, "--", marker=".", color=f"C{color}", label=name)
    right.legend(handles=[*lines, *right.get_lines()], loc="center right")
