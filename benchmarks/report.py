"""What a run measured, as a markdown table, as JSON, and as a plot."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.measure import Outcome

BASELINE = "multiprocessing.Pipe"


def size_name(size: int) -> str:
    """A size in bytes as people say it."""
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size // factor} {unit}"
    return f"{size // 8} floats"


def _time_name(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def markdown(outcome: Outcome) -> str:
    """The table: the median of each, and its ratio to multiprocessing.Pipe in the same run."""
    sizes = list(outcome.floors)
    where = "host and worker on one CPU" if outcome.pinned else f"{os.cpu_count()} CPUs"
    lines = [
        f"**{where}** (median of a round trip, in brackets times `{BASELINE}`)",
        "",
        "| | " + " | ".join(map(size_name, sizes)) + " | start |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    for name, series in outcome.series.items():
        cells = [_cell(outcome, name, size) if size in series else "-" for size in sizes]
        cells.append(_time_name(outcome.starts[name]))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    floors = " | ".join(_time_name(outcome.floors[size]) for size in sizes)
    lines.append(f"| *floor: two copies and the computation* | {floors} | |")
    lines += [f"\n{name} took no part: {why}." for name, why in outcome.absent.items()]
    return "\n".join(lines) + "\n"


def _cell(outcome: Outcome, name: str, size: int) -> str:
    median = outcome.series[name][size].median
    baseline = outcome.series.get(BASELINE, {}).get(size)
    ratio = f" ({median / baseline.median:.3g})" if baseline else ""
    return f"{_time_name(median)}{ratio}"


def as_json(outcomes: list[Outcome]) -> dict[str, Any]:
    """Everything, for another program."""
    return {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "runs": [
            {
                "pinned": outcome.pinned,
                "ping_s": outcome.ping,
                "absent": outcome.absent,
                "start_s": outcome.starts,
                "floor_s": outcome.floors,
                "contestants": {
                    name: {
                        size: {"median_s": s.median, "p99_s": s.p99, "calls": len(s.times)}
                        for size, s in series.items()
                    }
                    for name, series in outcome.series.items()
                },
            }
            for outcome in outcomes
        ],
    }


def plot(outcome: Outcome, path: Path) -> bool:
    """Draw the ratio to the floor over the size; False where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, series in outcome.series.items():
        sizes = sorted(series)
        ratios = [series[size].median / max(outcome.floors[size], outcome.ping) for size in sizes]
        ours = name.startswith("soma")
        axes.plot(sizes, ratios, marker="o", label=name, linewidth=2.5 if ours else 1.2)
    axes.axhline(1.0, color="grey", linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="bytes each way", ylabel="times the floor")
    axes.set_title("Round trip over what the machine allows (lower is better)")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    return True


def write(outcomes: list[Outcome], directory: Path) -> None:
    """Write results.md, results.json and, where possible, results.png."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.md").write_text("\n".join(map(markdown, outcomes)))
    (directory / "results.json").write_text(json.dumps(as_json(outcomes), indent=1) + "\n")
    plot(outcomes[-1], directory / "results.png")
