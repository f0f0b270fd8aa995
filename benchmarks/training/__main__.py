"""The command: ``python -m benchmarks.training`` proves, measures, and prints the tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import Row, markdown
from benchmarks.training import cost, larger, memory, oracle, parallel, races, validated
from benchmarks.training.home import Network
from benchmarks.training.workers import connections, workers
from soma_core.benchmarking import time_name
from soma_core.cli.demo.digits import load_digits


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        epochs: Of the oracle's cases.
        rounds: Of the race over the digits; each is an epoch for everybody.
        heavy: The network of the race over two workers.
        rows: Of that race's batch.
        steps: Rounds of that race; each is a step for everybody.
        array: Bytes of the array whose memory is watched.
        file: Rows of the file that is larger than the worker's memory.
        peers: Whether the peers take part that take long, or much memory.
    """

    epochs: int
    rounds: int
    heavy: Network
    rows: int
    steps: int
    array: int
    file: int
    peers: bool


FULL = Sizes(5, 40, Network((256, 512, 512, 10), seed=0), 8192, 15, 1 << 30, 6_000_000, True)
QUICK = Sizes(1, 2, Network((32, 64, 10), seed=0), 256, 2, 64 << 20, 100_000, False)
INTRODUCTION = (
    "One thread for each numerical library in each process. Rounds of all contestants are "
    "interleaved; a ratio is that of the same round, and of these the median. Processor time is "
    "that of all processes together, as a ratio too; on a machine with other work it tells more."
)


@dataclass
class Found:
    """What a run came to."""

    pairs: list[oracle.Pair]
    cost: races.Race
    validated: races.Race
    parallel: races.Race
    memory: dict[str, float]
    larger: dict[str, larger.Reading]


def measure(sizes: Sizes) -> Found:
    """All parts, one after the other."""
    digits = load_digits()
    data = digits.x_train, digits.y_train
    with connections() as connect, workers(connect) as here:
        pairs = oracle.run(here, connect, data, sizes.epochs)
        race = cost.run(here, data, sizes.rounds)
        measured = validated.run(here, data, max(2, sizes.rounds // 2))
        two = parallel.run(here, sizes.heavy, sizes.rows, sizes.steps, peers=sizes.peers)
        taken = memory.run(here, sizes.array, peers=sizes.peers)
        read = larger.run(here, sizes.file)
    return Found(pairs, race, measured, two, taken, read)


def figures(found: Found, sizes: Sizes) -> list[Row]:
    """Each figure beside its goal."""
    equal = sum(pair.difference is None for pair in found.pairs)
    rows = [
        Row(
            "oracle pairs equal to the last bit",
            "all",
            f"{equal} of {len(found.pairs)}",
            f"{found.pairs[0].steps} steps and more",
            equal == len(found.pairs),
        )
    ]
    transports = list(dict.fromkeys(pair.transport for pair in found.pairs))
    over = f"{sizes.rounds} rounds"
    for name, goal in (
        *((cost.per_batch(transport), 1.5) for transport in transports),
        *((cost.at_once(transport), 1.03) for transport in transports),
    ):
        ratio = found.cost.ratio(name)
        asked = f"{name}, times {cost.BASELINE}"
        rows.append(Row(asked, f"at most {goal}", f"{ratio:.3f}", over, ratio <= goal))
    for transport in transports:
        name = validated.name_of(transport)
        ratio = found.validated.ratio(name)
        asked = f"{name}, times {validated.BASELINE}"
        rows.append(Row(asked, "at most 1.05", f"{ratio:.3f}", over, ratio <= 1.05))
    gain = 1 / found.parallel.ratio(parallel.BOTH)
    asked = f"{parallel.BOTH}, throughput of {parallel.BASELINE}"
    rows.append(Row(asked, "at least 1.6", f"{gain:.2f}", f"{sizes.steps} steps", gain >= 1.6))
    for name, taken in found.memory.items():
        if name != memory.PIPE:
            asked = f"{name}, peak memory of BATCHED_FIT, in arrays"
            over = f"{sizes.array >> 20:,} MiB"
            rows.append(Row(asked, "at most 1.15", f"{taken:.3f}", over, taken <= 1.15))
    for transport, reading in found.larger.items():
        asked, over = f"soma {transport}, BATCHED_FIT over a file", f"{sizes.file:,} rows"
        rows += [
            Row(
                f"{asked}, rows seen", "all", f"{reading.rows:,}", over, reading.rows == sizes.file
            ),
            Row(
                f"{asked}, memory beyond the idle worker",
                "at most 300 MiB",
                f"{reading.taken >> 20} MiB",
                over,
                reading.taken <= 300 << 20,
            ),
            Row(
                f"{asked}, times the same loop here",
                "at most 1.1",
                f"{reading.ratio:.2f}",
                over,
                reading.ratio <= 1.1,
            ),
        ]
    return rows


def report(found: Found, sizes: Sizes, command: str) -> str:
    """All tables."""
    heavy = f"a step, {'-'.join(map(str, sizes.heavy.sizes))}, {sizes.rows:,} rows"
    digits = f"a step, {'-'.join(map(str, cost.NETWORK.sizes))}, 64 rows"
    lines = [markdown(figures(found, sizes), command), INTRODUCTION, ""]
    lines += [*oracle.markdown(found.pairs), ""]
    lines += [*races.table(found.cost, digits, time_name), ""]
    large = f"an epoch, {'-'.join(map(str, validated.NETWORK.sizes))}, with validation"
    lines += [*races.table(found.validated, large, time_name), ""]
    lines += [*races.table(found.parallel, heavy, time_name), ""]
    lines += [f"| BATCHED_FIT on {sizes.array >> 20:,} MiB | peak, in arrays |", "|---|---|"]
    lines += [f"| {name} | {taken:.2f} |" for name, taken in found.memory.items()]
    return "\n".join(lines) + "\n"


def as_json(found: Found, sizes: Sizes) -> dict[str, Any]:
    """Everything, for another program."""
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "sizes": asdict(sizes),
        "figures": [asdict(row) for row in figures(found, sizes)],
        "oracle": [asdict(pair) for pair in found.pairs],
        "cost": asdict(found.cost),
        "validated": asdict(found.validated),
        "parallel": asdict(found.parallel),
        "memory_arrays": found.memory,
        "larger": {name: asdict(reading) for name, reading in found.larger.items()},
    }


def main() -> int:
    """Parse the arguments, measure, and print; 1 if a figure was missed, or an oracle pair."""
    parser = argparse.ArgumentParser("python -m benchmarks.training", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, whose figures do not count"
    )
    parser.add_argument("--out", type=Path, help="where to write training.md and training.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = QUICK if options.quick else FULL
    found = measure(sizes)
    command = "python -m benchmarks.training" + (" --quick" if options.quick else "")
    told = report(found, sizes, command)
    print(told)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "training.md").write_text(told)
        (options.out / "training.json").write_text(json.dumps(as_json(found, sizes), indent=1))
    if options.quick:
        return 0 if all(pair.difference is None for pair in found.pairs) else 1
    return 0 if all(row.kept for row in figures(found, sizes)) else 1


if __name__ == "__main__":
    sys.exit(main())
