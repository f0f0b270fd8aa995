"""What a run measured, as markdown tables, as JSON, and as a plot."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from soma_core.benchmarking import BASELINE, Measurements, as_json, size_name, time_name


def markdown(measured: Measurements) -> str:
    """The medians, each with its ratio to multiprocessing.Pipe in the same run, and the p99."""
    where = "host and worker on one CPU" if measured.pinned else f"{os.cpu_count()} CPUs"
    floors = " | ".join(map(time_name, measured.floors.values()))
    lines = [
        f"**{where}** (median of a round trip, in brackets times `{BASELINE}`)",
        "",
        *_table(
            measured, _median, [time_name(start) for start in measured.starts.values()], "start"
        ),
        f"| *floor: two copies and the computation* | {floors} | |",
        f"\nA byte there and back over AF_UNIX: {time_name(measured.ping)}.\n",
        f"**{where}**, 99th percentile",
        "",
        *_table(measured, _p99),
    ]
    lines += [f"\n{name} took no part: {why}." for name, why in measured.absent.items()]
    return "\n".join(lines) + "\n"


def _table(
    measured: Measurements,
    cell: Callable[[Measurements, str, int], str],
    last: Sequence[str] = (),
    heading: str = "",
) -> list[str]:
    """A row for each contestant and a column for each size, and perhaps one more."""
    sizes = list(measured.floors)
    headings = [*map(size_name, sizes), *([heading] if last else [])]
    rows = [["", *headings], ["---"] * (len(headings) + 1)]
    for number, (name, series) in enumerate(measured.series.items()):
        cells = [cell(measured, name, size) if size in series else "-" for size in sizes]
        rows.append([name, *cells, *last[number : number + 1]])
    return [f"| {' | '.join(row)} |" for row in rows]


def _median(measured: Measurements, name: str, size: int) -> str:
    ratio = measured.ratio(name, size, BASELINE)
    told = "" if ratio is None else f" ({ratio:.3g})"
    return time_name(measured.series[name][size].median) + told


def _p99(measured: Measurements, name: str, size: int) -> str:
    return time_name(measured.series[name][size].p99)


def plot(measured: Measurements, path: Path) -> bool:
    """Draw the ratio to the floor over the size; False where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5))
    axes.set_prop_cycle(color=matplotlib.colormaps["tab20"].colors)
    for name, series in measured.series.items():
        sizes = sorted(series)
        ratios = [series[size].median / max(measured.floors[size], measured.ping) for size in sizes]
        ours = name.startswith("soma")
        axes.plot(sizes, ratios, marker="o", label=name, linewidth=2.5 if ours else 1.2)
    axes.axhline(1.0, color="grey", linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="bytes each way", ylabel="times the floor")
    axes.set_title("Round trip over what the machine allows (lower is better)")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    return True


def write(runs: list[Measurements], directory: Path) -> None:
    """Write results.md, results.json and, where possible, results.png."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.md").write_text("\n".join(map(markdown, runs)))
    (directory / "results.json").write_text(json.dumps(as_json(runs), indent=1) + "\n")
    plot(runs[-1], directory / "results.png")
