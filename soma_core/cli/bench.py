"""Bench: what a call costs on this machine, over each transport and over multiprocessing.Pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from soma_core.cli.console import CommandFailed, console, note, print_json, table

if TYPE_CHECKING:
    from soma_core.benchmarking import Measurements

_SIZES = [80, 8 << 10, 1 << 20, 64 << 20]
_LARGEST = 1 << 32


def bench(
    size: Annotated[
        list[int] | None,
        typer.Option(min=8, max=_LARGEST, help="Bytes of the array; may be repeated."),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(min=1, help="Rounds of up to 0.4 s for each size and transport."),
    ] = 3,
    pinned: Annotated[
        bool,
        typer.Option("--pinned", help="Keep host and workers on one CPU."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print seconds, for a program.")] = False,
) -> None:
    """Measure a call on this machine: an array to a worker and back, every result checked."""
    from soma_core import benchmarking

    if pinned and not benchmarking.pinnable():
        raise CommandFailed("--pinned: this system does not let a program choose its CPU")
    sizes = sorted({count // 8 * 8 for count in size or _SIZES})
    measured = benchmarking.run(benchmarking.builtin(), sizes, rounds, pinned=pinned)
    if json:
        print_json(benchmarking.as_json([measured]))
    else:
        _show(measured)


def _show(measured: Measurements) -> None:
    from soma_core.benchmarking import BASELINE, size_name, time_name

    rows = table("", *map(size_name, measured.floors), "first result")
    for name, series in measured.series.items():
        cells = []
        for size, figures in series.items():
            ratio = measured.ratio(name, size, BASELINE)
            in_brackets = f" ({ratio:.3g})" if ratio is not None and name != BASELINE else ""
            cells.append(f"{time_name(figures.median)}{in_brackets}\np99 {time_name(figures.p99)}")
        cells += ["-"] * (len(measured.floors) - len(cells))
        rows.add_row(Text(name), *cells, time_name(measured.starts[name]))
    rows.add_row("floor", *map(time_name, measured.floors.values()), "")
    console().print(rows)
    for name, reason in measured.absent.items():
        note(f"{name} took no part: {reason}")
    note(
        f"medians of a round trip, in brackets times {BASELINE}; floor: two copies and "
        f"the computation; a byte there and back takes {time_name(measured.ping)}"
    )
