"""Peak memory: ``python -m benchmarks.memory`` counts what calls with one large array take.

The kernel notes the peak of a process's resident memory (``VmHWM`` in ``/proc/PID/status``) from
the moment that it is told to start anew (5 into ``/proc/PID/clear_refs``). Of host and worker
together that is what they have by themselves, plus twice every memory file that both map, which
``/proc/PID/smaps`` lists by its inode and with how much of it is resident; so each is taken off
once. What was there before the calls is taken off too, the input among it, and one output, which
the caller wants. The peaks of both processes need not be of the same moment: the sum is an upper
bound.

The regions are counted apart for each direction, by calls that have a large array in one
direction only. A region stays mapped when it is free, so that their number at the end is the
peak; the caller holds the last result while it calls again, as in ``y = f(x)``.
"""

from __future__ import annotations

import argparse
import gc
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import soma_core as soma
from soma_core.benchmarking import size_name
from soma_core.benchmarking.contestants import daemon
from soma_core.benchmarking.work import Work

CALLS = 8
TRANSPORTS = ("stdio", "socket")
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ (\d+) +(.*)$")


class Consume:
    """A large array in, a number out."""

    def fit(self, x: Any, y: Any = None) -> Any:
        return {}

    def forward(self, x: Any, state: Any) -> float:
        return float(x[-1])


class Produce:
    """A number in, a large array out."""

    def fit(self, x: Any, y: Any = None) -> Any:
        return {}

    def forward(self, x: int, state: Any) -> Any:
        return np.ones(x)


@dataclass(frozen=True)
class Taken:
    """What the calls of one kind took.

    Attributes:
        beyond: Bytes of host and worker at their peaks, beyond input and output.
        regions: How many memory files of at least half of the array there are in the end.
    """

    beyond: int
    regions: int


def measure(transport: str, size: int) -> dict[str, Taken]:
    """What calls with an array of so many bytes take, by kind."""
    x, count = np.random.rand(size // 8), size // 8
    filters = {"both": Work(), "in": Consume(), "out": Produce()}
    sent: dict[str, Any] = {"both": x, "in": x, "out": count}
    found = {}
    for name, value in sent.items():
        with daemon(transport) as options, soma.connect(transport, **options) as worker:
            worker.load({name: filters[name]})
            worker.fit(name, [0.0], return_state=False)
            found[name] = _watch(worker, name, value, size)
    return found


def _watch(worker: soma.Worker, name: str, value: Any, size: int) -> Taken:
    pids = [Path("/proc/self"), Path(f"/proc/{worker.ping().pid}")]
    gc.collect()
    for pid in pids:
        (pid / "clear_refs").write_text("5")
    before = sum(map(peak, pids))
    y = None
    for _ in range(CALLS):
        y = worker.forward(name, value)
    here, there = map(_memory_files, pids)
    shared = sum(min(here[inode], there[inode]) for inode in here.keys() & there.keys())
    output = size if isinstance(y, np.ndarray) else 0
    large = [inode for inode in here.keys() | there.keys() if _most(inode, here, there) > size // 2]
    return Taken(sum(map(peak, pids)) - before - shared - output, len(large))


def _most(inode: int, here: dict[int, int], there: dict[int, int]) -> int:
    return max(here.get(inode, 0), there.get(inode, 0))


def peak(process: Path) -> int:
    """The most that a process has held in memory since its peak was last cleared, in bytes."""
    (line,) = re.findall(r"^VmHWM:\s+(\d+) kB", (process / "status").read_text(), re.MULTILINE)
    return int(line) * 1024


def _memory_files(process: Path) -> dict[int, int]:
    """The resident bytes of each of soma's memory files that a process maps, by inode."""
    found: dict[int, int] = {}
    inode = 0
    for line in (process / "smaps").read_text().splitlines():
        if mapping := _MAPPING.match(line):
            inode = int(mapping[1]) if "memfd:soma" in mapping[2] else 0
        elif inode and line.startswith("Rss:"):
            found[inode] = found.get(inode, 0) + int(line.split()[1]) * 1024
    return found


def main() -> None:
    """Parse the arguments, measure, and print a table."""
    parser = argparse.ArgumentParser("python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--size", type=int, default=64 << 20, help="bytes")
    size = parser.parse_args().size
    print(f"Arrays of {size_name(size)}; host and worker beyond input and output.\n")
    print(
        "| | peak, in arrays | regions to the worker | regions back |",
        "|---|---|---|---|",
        sep="\n",
    )
    for transport in TRANSPORTS:
        found = measure(transport, size)
        print(
            f"| {transport} | {found['both'].beyond / size:.2f} "
            f"| {found['in'].regions} | {found['out'].regions} |"
        )


if __name__ == "__main__":
    main()
