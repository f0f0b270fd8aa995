"""The price of soma over Ray: ``python -m benchmarks.ray_price`` measures it against plain actors.

Both do the same work in the same cluster, in turns. A plain actor hands out read-only arrays,
soma writable ones. The exit status says whether the price keeps to what was promised.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.peers import ray_actor, ray_cluster
from soma_core import benchmarking
from soma_core.benchmarking import Contestant, Measurements, builtin, size_name, time_name

PLAIN, SOMA = "plain Ray actor", "soma ray"
SIZES = [80, 8 << 10, 1 << 20, 64 << 20]
PROMISED = {80: 1.15, 64 << 20: 1.15}


def table(measured: Measurements) -> str:
    """The medians at each size, and their ratio."""
    rows = [["", PLAIN, SOMA, "ratio"], ["---"] * 4]
    for size in measured.floors:
        medians = [time_name(measured.series[name][size].median) for name in (PLAIN, SOMA)]
        rows.append([size_name(size), *medians, f"{measured.ratio(SOMA, size, PLAIN):.2f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    """Measure, print the table, and compare with what was promised."""
    parser = argparse.ArgumentParser("python -m benchmarks.ray_price", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="bytes")
    options = parser.parse_args()
    soma = builtin().get(SOMA)
    if soma is None:
        print("soma-transport-ray is not installed here; `make ray` sets up an environment")
        return 2
    contestants = {PLAIN: Contestant(ray_actor, ray_cluster), SOMA: soma}
    measured = benchmarking.run(contestants, options.sizes, options.rounds, pinned=False)
    if measured.absent:
        print(measured.absent)
        return 2
    print(table(measured))
    prices = {size: measured.ratio(SOMA, size, PLAIN) or 0.0 for size in options.sizes}
    return int(any(prices[size] > most for size, most in PROMISED.items() if size in prices))


if __name__ == "__main__":
    sys.exit(main())
