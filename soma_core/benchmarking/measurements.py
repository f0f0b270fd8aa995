"""What a run measured, and how its figures are written."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Series:
    """The times of one contestant at one size, in seconds."""

    times: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle of all calls."""
        return float(np.median(self.times))

    @property
    def p99(self) -> float:
        """What 99 of 100 calls stay below."""
        return float(np.percentile(self.times, 99))


@dataclass
class Measurements:
    """All that one run measured.

    Attributes:
        pinned: Whether everybody ran on one CPU.
        series: By contestant, then by size in bytes.
        starts: Seconds from nothing to the first result, by contestant.
        absent: Why a contestant did not take part.
        floors: Seconds by size: copying the array twice, and computing.
        ping: Seconds for one byte there and back over AF_UNIX.
    """

    pinned: bool
    series: dict[str, dict[int, Series]] = field(default_factory=dict)
    starts: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    floors: dict[int, float] = field(default_factory=dict)
    ping: float = 0.0

    def ratio(self, name: str, size: int, to: str) -> float | None:
        """The median of a contestant over that of another; None where one took no part."""
        ours, theirs = (self.series.get(one, {}).get(size) for one in (name, to))
        return None if ours is None or theirs is None else ours.median / theirs.median


def size_name(size: int) -> str:
    """A size in bytes, for people: ``8 KiB``."""
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size // 8} floats"


def time_name(seconds: float) -> str:
    """A time in seconds, for people: ``35 µs``."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def as_json(runs: Iterable[Measurements]) -> dict[str, Any]:
    """Everything, for another program."""
    return {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "runs": [_run_as_json(measured) for measured in runs],
    }


def _run_as_json(measured: Measurements) -> dict[str, Any]:
    return {
        "pinned": measured.pinned,
        "ping_s": measured.ping,
        "absent": measured.absent,
        "start_s": measured.starts,
        "floor_s": measured.floors,
        "contestants": {
            name: {
                size: {"median_s": s.median, "p99_s": s.p99, "calls": len(s.times)}
                for size, s in series.items()
            }
            for name, series in measured.series.items()
        },
    }
