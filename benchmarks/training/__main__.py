"""The command: ``python -m benchmarks.training`` proves, measures, and prints the tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import soma_core as soma
from benchmarks.table import Row, markdown
from benchmarks.training import cost, larger, memory, oracle, parallel, races, validated
from benchmarks.training.home import Array, Network
from benchmarks.training.workers import Connect, connections, workers
from soma_core.benchmarking import time_name
from soma_core.cli.demo.digits import load_digits


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        epochs: Of the oracle's cases.
        rounds: Of the race over the digits; each is an epoch for everybody.
        launches: Of the race with validation; in each all processes are new.
        heavy: The network of the race over two workers.
        rows: Of that race's batch.
        steps: Rounds of that race; each is a step for everybody.
        array: Bytes of the array whose memory is watched.
        file: Rows of the file that is larger than the worker's memory.
        peers: Whether the peers take part that take long, or much memory.
    """

    epochs: int
    rounds: int
    launches: int
    heavy: Network
    rows: int
    steps: int
    array: int
    file: int
    peers: bool


FULL = Sizes(5, 40, 5, Network((256, 512, 512, 10), seed=0), 8192, 15, 1 << 30, 6_000_000, True)
QUICK = Sizes(1, 2, 1, Network((32, 64, 10), seed=0), 256, 2, 64 << 20, 100_000, False)
INTRODUCTION = (
    "One thread for each numerical library in each process. Rounds of all contestants are "
    "interleaved; a ratio is that of the same round, and of these the median. Processor time is "
    "that of all processes together, as a ratio too; on a machine with other work it tells more."
)


@dataclass(frozen=True)
class Setting:
    """What the parts share: where to train, and how much of everything."""

    workers: Mapping[str, soma.Worker]
    connect: Mapping[str, Connect]
    sizes: Sizes


@dataclass(frozen=True)
class Found:
    """What a part came to.

    Attributes:
        rows: Each figure beside its goal.
        lines: The part's own table.
        data: The same for another program.
    """

    rows: list[Row]
    lines: list[str]
    data: dict[str, Any] = field(default_factory=dict)


def _oracle(setting: Setting) -> Found:
    pairs = oracle.run(setting.workers, setting.connect, _digits(), setting.sizes.epochs)
    equal = sum(pair.difference is None for pair in pairs)
    row = Row(
        "oracle pairs equal to the last bit",
        "all",
        f"{equal} of {len(pairs)}",
        f"{pairs[0].steps} steps and more",
        equal == len(pairs),
    )
    return Found([row], oracle.markdown(pairs), {"oracle": [asdict(pair) for pair in pairs]})


def _cost(setting: Setting) -> Found:
    race = cost.run(setting.workers, _digits(), setting.sizes.rounds)
    goals = {cost.per_batch(name): 1.5 for name in setting.workers}
    goals |= {cost.at_once(name): 1.03 for name in setting.workers}
    work = f"a step, {'-'.join(map(str, cost.NETWORK.sizes))}, 64 rows"
    return _raced("cost", race, goals, f"{setting.sizes.rounds} rounds", work)


def _validated(setting: Setting) -> Found:
    rounds = max(2, setting.sizes.rounds // 5)
    race = validated.run(setting.sizes.launches, rounds)
    goals = {name: 1.05 for name in race.times if name != race.baseline}
    over = f"{setting.sizes.launches} launches of {rounds} rounds"
    work = f"an epoch, {'-'.join(map(str, validated.NETWORK.sizes))}, with validation"
    return _raced("validated", race, goals, over, work)


def _raced(name: str, race: races.Race, goals: Mapping[str, float], over: str, work: str) -> Found:
    rows = []
    for contestant, goal in goals.items():
        ratio, asked = race.ratio(contestant), f"{contestant}, times {race.baseline}"
        counted = f"{ratio:.3f} (processor time {race.processor(contestant):.3f})"
        rows.append(Row(asked, f"at most {goal}", counted, over, ratio <= goal))
    return Found(rows, races.table(race, work, time_name), {name: asdict(race)})


def _parallel(setting: Setting) -> Found:
    sizes = setting.sizes
    race = parallel.run(setting.workers, sizes.heavy, sizes.rows, sizes.steps, peers=sizes.peers)
    gain = 1 / race.ratio(parallel.BOTH)
    asked = f"{parallel.BOTH}, throughput of {parallel.BASELINE}"
    row = Row(asked, "at least 1.6", f"{gain:.2f}", f"{sizes.steps} steps", gain >= 1.6)
    work = f"a step, {'-'.join(map(str, sizes.heavy.sizes))}, {sizes.rows:,} rows"
    return Found([row], races.table(race, work, time_name), {"parallel": asdict(race)})


def _memory(setting: Setting) -> Found:
    size = setting.sizes.array
    taken = memory.run(setting.workers, size, peers=setting.sizes.peers)
    rows = [
        Row(
            f"{name}, peak memory of BATCHED_FIT, in arrays",
            "at most 1.15",
            f"{arrays:.3f}",
            f"{size >> 20:,} MiB",
            arrays <= 1.15,
        )
        for name, arrays in taken.items()
        if name != memory.PIPE
    ]
    lines = [f"| BATCHED_FIT on {size >> 20:,} MiB | peak, in arrays |", "|---|---|"]
    lines += [f"| {name} | {arrays:.2f} |" for name, arrays in taken.items()]
    return Found(rows, lines, {"memory_arrays": taken})


def _larger(setting: Setting) -> Found:
    rows, count = [], setting.sizes.file
    read = larger.run(setting.workers, count)
    for transport, reading in read.items():
        asked, over = f"soma {transport}, BATCHED_FIT over a file", f"{count:,} rows"
        taken, ratio = reading.taken >> 20, reading.ratio
        rows += [
            Row(f"{asked}, rows seen", "all", f"{reading.rows:,}", over, reading.rows == count),
            Row(
                f"{asked}, memory beyond the idle worker",
                "at most 300 MiB",
                f"{taken} MiB",
                over,
                taken <= 300,
            ),
            Row(
                f"{asked}, times the same loop here",
                "at most 1.1",
                f"{ratio:.2f} (processor time {reading.processor:.2f})",
                over,
                ratio <= 1.1,
            ),
        ]
    return Found(rows, [], {"larger": {name: asdict(reading) for name, reading in read.items()}})


def _digits() -> tuple[Array, Array]:
    digits = load_digits()
    return digits.x_train, digits.y_train


PARTS: dict[str, Callable[[Setting], Found]] = {
    "oracle": _oracle,
    "cost": _cost,
    "validated": _validated,
    "parallel": _parallel,
    "memory": _memory,
    "larger": _larger,
}


def measure(sizes: Sizes, parts: Iterable[str]) -> list[Found]:
    """The parts, one after the other."""
    with connections() as connect, workers(connect) as here:
        return [PARTS[part](Setting(here, connect, sizes)) for part in parts]


def report(found: list[Found], command: str) -> str:
    """All tables."""
    rows = [row for part in found for row in part.rows]
    tables = [part.lines for part in found if part.lines]
    lines = [markdown(rows, command), INTRODUCTION]
    for table in tables:
        lines += ["", *table]
    return "\n".join(lines) + "\n"


def as_json(found: list[Found], sizes: Sizes) -> dict[str, Any]:
    """Everything, for another program."""
    told: dict[str, Any] = {
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "sizes": asdict(sizes),
        "figures": [asdict(row) for part in found for row in part.rows],
    }
    for part in found:
        told |= part.data
    return told


def main() -> int:
    """Parse the arguments, measure, and print; 1 if a figure was missed, or an oracle pair."""
    parser = argparse.ArgumentParser("python -m benchmarks.training", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, whose figures do not count"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts")
    parser.add_argument("--out", type=Path, help="where to write training.md and training.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = QUICK if options.quick else FULL
    found = measure(sizes, options.only)
    told = report(found, " ".join(["python -m benchmarks.training", *sys.argv[1:]]))
    print(told)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "training.md").write_text(told)
        (options.out / "training.json").write_text(json.dumps(as_json(found, sizes), indent=1))
    counts = [part for part in found if not options.quick or "oracle" in part.data]
    return 0 if all(row.kept for part in counts for row in part.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
