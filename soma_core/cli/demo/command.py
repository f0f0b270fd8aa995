"""The command ``soma demo``, from the first worker to the last table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from soma_core.benchmarking.contestants import Unavailable, daemon
from soma_core.cli.console import CommandFailed, console, print_error
from soma_core.cli.demo.digits import Digits, load_digits
from soma_core.cli.demo.display import (
    show_curves,
    show_readings,
    show_runs,
    show_section,
    show_where_imported,
)
from soma_core.cli.demo.training import ONE_THREAD, Place, TrainingRun, kill_half_way, run_training
from soma_core.cli.picture import PictureFile, check_drawing, draw_curves
from soma_core.plugins.catalog import installed_filters

_GOOD = 0.95
_NEEDED = {
    "sklearn.StandardScaler": "soma-filters-sklearn",
    "torch.MLP": "soma-filters-torch",
}


class Choice(StrEnum):
    """Which transports to show."""

    BOTH = "both"
    STDIO = "stdio"
    SOCKET = "socket"
    INLINE = "inline"


def demo(
    transport: Annotated[Choice, typer.Option(help="Which transports to show.")] = Choice.BOTH,
    epochs: Annotated[int, typer.Option(min=2, help="Passes over the training images.")] = 30,
    kill: Annotated[
        bool, typer.Option(help="Kill a worker during its training, and start over.")
    ] = True,
    curve: PictureFile = None,
) -> None:
    """Train a network on handwritten digits in a worker, over each transport."""
    _require_plugins()
    if curve is not None:
        check_drawing(curve)
    screen = console()
    digits = load_digits()
    screen.print(
        f"{len(digits.y_train):,} images of handwritten digits to learn from, "
        f"{len(digits.y_test)} to test on."
    )
    with _places(transport) as places:
        runs = []
        for place in places:
            show_section(screen, f"A worker over {place.transport}")
            if kill and place is places[-1] and transport is not Choice.INLINE:
                _lose_a_worker(place, digits, epochs, screen)
            runs.append(run_training(place, digits, epochs, screen))
    show_section(screen, "How they learned")
    show_curves(screen, runs)
    if curve is not None:
        draw_curves([run.curve for run in runs], curve)
        screen.print(f"The picture is in {curve}.", soft_wrap=True)
    show_section(screen, "What they made of it")
    show_readings(screen, digits, runs[0].predicted)
    screen.print()
    show_runs(screen, runs, digits)
    screen.print()
    show_where_imported(screen)
    _judge(runs, digits)


def _require_plugins() -> None:
    installed = set(installed_filters().names())
    missing = [needed for name, needed in _NEEDED.items() if name not in installed]
    if find_spec("torch") is None and "soma-filters-torch" not in missing:
        missing.append("torch")
    if missing:
        print_error(
            f"the demo needs more packages; run: pip install {' '.join(missing)} (in a checkout of "
            "soma the plugins are under plugins/)"
        )
        raise typer.Exit(2)


@contextmanager
def _places(choice: Choice) -> Iterator[list[Place]]:
    """Where to train; a daemon runs within the block if a socket is among it."""
    stdio = Place("stdio", {"env": ONE_THREAD})
    if choice in (Choice.STDIO, Choice.INLINE):
        yield [stdio if choice is Choice.STDIO else Place("inline", {})]
        return
    try:
        with daemon("socket", env=ONE_THREAD) as options:
            socket = Place("socket", options)
            yield [socket] if choice is Choice.SOCKET else [stdio, socket]
    except Unavailable as error:
        raise CommandFailed(f"the transport 'socket' cannot be shown: {error}") from None


def _lose_a_worker(place: Place, digits: Digits, epochs: int, screen: Console) -> None:
    screen.print("  This one is killed half way (SIGKILL):")
    death = kill_half_way(place, digits, epochs, screen)
    if death is None:
        raise CommandFailed("a worker was killed and the call in the host did not fail")
    screen.print(Text(f"  WorkerDied: {death}", "red"))
    screen.print("  Nothing else is harmed. A new worker starts over:")


def _judge(runs: list[TrainingRun], digits: Digits) -> None:
    """Fail where the demo did not show what it promises.

    Raises:
        CommandFailed: A network learned too little, or transports differ in their predictions.
    """
    first = runs[0]
    for run in runs:
        accuracy = digits.accuracy(run.predicted)
        if accuracy < _GOOD:
            raise CommandFailed(
                f"the worker over {run.transport} reads {accuracy:.2%} of the test images, and "
                f"{_GOOD:.0%} is the least to expect; give it more --epochs"
            )
        if not np.array_equal(run.predicted, first.predicted):
            raise CommandFailed(
                f"workers over {first.transport} and {run.transport} predict different digits"
            )
