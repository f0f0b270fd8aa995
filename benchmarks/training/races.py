"""Races: who does the same work how fast, in interleaved rounds, as ratios to one of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

_ALL_THREADS = 2  # CPUCLOCK_SCHED: how Linux spells the clock of another process in its number


@dataclass
class Race:
    """The times of contestants in the same rounds, in seconds for one piece of work.

    The machine may drift from round to round, so a ratio is that of each round, and of these
    the median.

    Attributes:
        baseline: The one to compare to.
        times: Seconds on the clock, by contestant.
        busy: Seconds of processor time, by contestant, which other programs disturb less.
    """

    baseline: str
    times: dict[str, list[float]] = field(default_factory=dict)
    busy: dict[str, list[float]] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """The middle of its rounds, in seconds."""
        return float(np.median(self.times[name]))

    def ratio(self, name: str, to: str | None = None) -> float:
        """How many times as long as another it takes: the median of the rounds."""
        return float(np.median(self._ratios(name, to)))

    def processor(self, name: str) -> float:
        """How many times as much processor time it takes, in all processes together."""
        pairs = zip(self.busy[name], self.busy[self.baseline], strict=True)
        return float(np.median([one / other for one, other in pairs]))

    def spread(self, name: str, to: str | None = None) -> tuple[float, float]:
        """The ratios between which the middle half of the rounds lies."""
        low, high = np.percentile(self._ratios(name, to), [25, 75])
        return float(low), float(high)

    def extend(self, other: Race) -> None:
        """Add the rounds of another race of the same contestants."""
        for mine, theirs in ((self.times, other.times), (self.busy, other.busy)):
            for name, rounds in theirs.items():
                mine.setdefault(name, []).extend(rounds)

    def _ratios(self, name: str, to: str | None) -> list[float]:
        pairs = zip(self.times[name], self.times[to or self.baseline], strict=True)
        return [one / other for one, other in pairs]


def run(
    contestants: Mapping[str, Callable[[], float]],
    baseline: str,
    rounds: int,
    pieces: int,
    pids: Sequence[int],
) -> Race:
    """Let everybody do their work once in each round, after one that does not count.

    Args:
        contestants: Each does a round's work and returns its loss, which must be everybody's.
        baseline: The one to compare to.
        rounds: How many.
        pieces: How many pieces of work a round has.
        pids: The processes that work beside this one.

    Raises:
        AssertionError: The contestants did not come to the same loss.
    """
    race = Race(baseline, *({name: [] for name in contestants} for _ in range(2)))
    processes = [os.getpid(), *pids]
    for number in range(rounds + 1):
        losses = {}
        for name, work in contestants.items():
            busy, begun = sum(map(processor_seconds, processes)), time.perf_counter()
            losses[name] = work()
            if number:
                race.times[name].append((time.perf_counter() - begun) / pieces)
                used = sum(map(processor_seconds, processes)) - busy
                race.busy[name].append(used / pieces)
        assert np.allclose(list(losses.values()), losses[baseline], rtol=1e-5, atol=1e-6), losses
    return race


def processor_seconds(pid: int) -> float:
    """What the kernel has counted for all threads of a process: by its own clock, since reading
    files would count as work of the contestant."""
    return time.clock_gettime(~pid << 3 | _ALL_THREADS)


def table(race: Race, work: str, time_name: Callable[[float], str]) -> list[str]:
    """A row for each contestant."""
    lines = [
        f"| {work} | median | times {race.baseline} | middle half | processor time |",
        "|---|---|---|---|---|",
    ]
    for name in race.times:
        low, high = race.spread(name)
        cells = [
            time_name(race.median(name)),
            f"{race.ratio(name):.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{race.processor(name):.2f}",
        ]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return lines
