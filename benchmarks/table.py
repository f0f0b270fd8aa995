"""What was asked, what was counted, and over how much: rows of a markdown table."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

_SHOWN = 20


@dataclass
class Row:
    """One promise and what a run found.

    Attributes:
        asked: The promise.
        goal: The figure that must be reached.
        counted: The figure that was.
        size: Over how much.
        kept: Whether it reaches the goal.
        complaints: What went wrong, one line each.
    """

    asked: str
    goal: str
    counted: str
    size: str
    kept: bool
    complaints: list[str] = field(default_factory=list)


def none_of(asked: str, complaints: Sequence[str], size: str) -> Row:
    """A row about what must not happen."""
    return Row(asked, "0", f"{len(complaints):,}", size, not complaints, list(complaints))


def percentiles(seconds: Sequence[float]) -> str:
    """The median, the 99th percentile and the largest."""
    if not seconds:
        return "none measured"
    p50, p99 = np.percentile(seconds, [50, 99])
    return f"p50 {_time(p50)}, p99 {_time(p99)}, at most {_time(max(seconds))}"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def markdown(rows: Iterable[Row], command: str) -> str:
    """The table, with the command and the machine that made it."""
    rows = list(rows)
    machine = f"{os.cpu_count()} CPUs, {platform.system()}, Python {platform.python_version()}"
    lines = [
        f"`{command}` ({machine})",
        "",
        "| what was asked | goal | counted | over | kept |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        kept = "yes" if row.kept else "**no**"
        lines.append(f"| {row.asked} | {row.goal} | {row.counted} | {row.size} | {kept} |")
    for row in rows:
        if row.complaints:
            lines += ["", f"{row.asked}:", ""]
            lines += [f"- {_one_line(complaint)}" for complaint in row.complaints[:_SHOWN]]
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:1000]
