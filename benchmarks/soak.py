"""A long run: ``python -m benchmarks.soak`` compares what host and worker hold early and late.

Values of mixed sizes cross, from ten floats to 4 MiB, most around the size from which on shared
memory carries them, nested ones and torch tensors among them, and the host keeps some of the
results. Of the samples over the run the last tenth is compared with the first: the median of
the resident memory, the most descriptors and the most mappings.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import soma_core as soma
from soma_core.benchmarking.contestants import daemon
from soma_core.channel.shared_memory import THRESHOLD

TRANSPORTS = ("stdio", "socket")
SAMPLES = 200
HELD = 3  # results that the host keeps
WARM_UP = 3000  # calls before the first sample: until as many regions are kept as may be
GROWTH, SLACK = 1.05, 4 << 20  # what counts as flat; an allocator does not give all back
PAGE = 4096


class Echo:
    """Gives back what came."""

    def fit(self, x: Any, y: Any = None) -> Any:
        return {}

    def forward(self, x: Any, state: Any) -> Any:
        return x


@dataclass(frozen=True)
class Held:
    """What a process holds at one moment."""

    memory: int
    descriptors: int
    mappings: int

    @classmethod
    def of(cls, process: Path) -> Held:
        """Read it from the process's directory in ``/proc``."""
        resident = int((process / "statm").read_text().split()[1]) * PAGE
        files = len(list((process / "fd").iterdir()))
        return cls(resident, files, (process / "maps").read_text().count("\n"))


class Values:
    """Values drawn by chance, of the sizes that matter."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._torch = _torch()

    def draw(self) -> Any:
        """The next one."""
        chance = self._chance
        array = self._array()
        kinds = [
            array,
            array,
            {"x": array, "n": [1, "text", self._array()]},
            (array, array.tobytes()),
        ]
        if self._torch is not None:
            kinds.append(self._torch.from_numpy(array))
        return chance.choice(kinds)

    def _array(self) -> np.ndarray[Any, Any]:
        chance = self._chance
        around = THRESHOLD // 8 + chance.randrange(-64, 64)
        count = chance.choice([10, 10, 1000, around, around, 1 << 15, 1 << 17, 1 << 19])
        share = 1.0 if chance.random() < 0.9 or count <= 1 << 15 else chance.random()
        return np.full(max(1, int(count * share)), chance.random())


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch


def soak(transport: str, calls: int, seed: int, warm_up: int = WARM_UP) -> dict[str, list[Held]]:
    """What host and worker held over so many calls.

    Raises:
        AssertionError: A result is wrong.
    """
    values = Values(seed)
    kept: deque[Any] = deque(maxlen=HELD)
    every = max(1, calls // SAMPLES)
    with daemon(transport) as options, soma.connect(transport, **options) as worker:
        worker.load({"echo": Echo()})
        processes = {"host": Path("/proc/self"), "worker": Path(f"/proc/{worker.ping().pid}")}
        held: dict[str, list[Held]] = {name: [] for name in processes}
        for number in range(-warm_up, calls):
            sent = values.draw()
            kept.append((sent, worker.forward("echo", sent)))
            if not _same(*kept[0]):  # the oldest that is kept: nothing wrote over it
                raise AssertionError(f"call {number}: a result differs from what was sent")
            if number >= 0 and number % every == 0:
                for name, process in processes.items():
                    held[name].append(Held.of(process))
    return held


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return bool(a.keys() == b.keys()) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and bool(np.array_equal(a, b))


def row(name: str, held: list[Held]) -> tuple[str, bool]:
    """A row of the table, and whether it is flat."""
    tenth = max(1, len(held) // 10)
    parts = held[:tenth], held[-tenth:]
    memory = [float(np.median([one.memory for one in part])) for part in parts]
    descriptors = [max(one.descriptors for one in part) for part in parts]
    mappings = [max(one.mappings for one in part) for part in parts]
    flat = (
        memory[1] <= memory[0] * GROWTH + SLACK
        and descriptors[1] <= descriptors[0] + 2
        and mappings[1] <= mappings[0] * GROWTH + 8
    )
    text = (
        f"| {name} | {memory[0] / 2**20:.1f} → {memory[1] / 2**20:.1f} MiB "
        f"| {descriptors[0]} → {descriptors[1]} | {mappings[0]} → {mappings[1]} "
        f"| {'yes' if flat else '**no**'} |"
    )
    return text, flat


def main() -> int:
    """Parse the arguments, run, and print a table; 1 if anything grew."""
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000, help="over each transport")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{options.calls:,} calls over each transport, first tenth → last tenth of the samples\n")
    print("| | resident | descriptors | mappings | flat |", "|---|---|---|---|---|", sep="\n")
    good = True
    for transport in TRANSPORTS:
        for name, held in soak(transport, options.calls, options.seed).items():
            text, flat = row(f"{transport}, {name}", held)
            print(text, flush=True)
            good = good and flat
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
