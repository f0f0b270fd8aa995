"""The command: ``python -m benchmarks.interrupts`` presses Ctrl-C during calls of every kind."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.interrupts.calls import KINDS
from benchmarks.interrupts.running import run
from benchmarks.table import markdown


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.interrupts", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="of all kinds together")
    parser.add_argument("--at-once", type=int, default=3, help="hosts beside each other")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--seed", type=int, default=1, help="of calls, sizes and moments")
    parser.add_argument("--out", type=Path, help="a file to write the table to as well")
    return parser.parse_args()


def main() -> int:
    """Parse the arguments, press, and print the table; 1 if anything was lost or left."""
    options = _options()
    rows = run(options.count, options.kinds, options.at_once, options.seed)
    table = markdown(rows, " ".join(["python -m benchmarks.interrupts", *sys.argv[1:]]))
    if options.out:
        options.out.write_text(table)
    print(table)
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
