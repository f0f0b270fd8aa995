"""The command: ``python -m benchmarks`` measures, prints the tables and writes the results."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import report
from benchmarks.peers import contestants
from soma_core import benchmarking

SIZES = [80, 8 << 10, 1 << 20, 64 << 20, 256 << 20]


def main() -> None:
    """Parse the arguments, measure pinned and not, and report."""
    everybody = contestants()
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="bytes")
    parser.add_argument(
        "--contestants", nargs="+", default=list(everybody), choices=everybody, metavar="NAME"
    )
    parser.add_argument("--cpu", choices=("one", "all", "both"), default="both")
    parser.add_argument("--out", type=Path, help="where to write results.md, .json and .png")
    options = parser.parse_args()
    chosen = {name: how for name, how in everybody.items() if name in options.contestants}
    outcomes = []
    for pinned in {"one": [True], "all": [False], "both": [True, False]}[options.cpu]:
        outcome = benchmarking.run(chosen, options.sizes, options.rounds, pinned=pinned)
        print(report.markdown(outcome), flush=True)
        outcomes.append(outcome)
    if options.out:
        report.write(outcomes, options.out)


if __name__ == "__main__":
    main()
