"""The command: ``python -m benchmarks.ends`` ends workers in every way, and counts what is left."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.ends.kinds import KINDS
from benchmarks.ends.running import run
from benchmarks.table import markdown

_COUNT = 1000
_AT_ONCE = 4 * (os.cpu_count() or 1)  # an end mostly waits


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.ends", description=__doc__)
    parser.add_argument("--count", type=int, default=_COUNT, help="ends of all kinds together")
    parser.add_argument("--at-once", type=int, default=_AT_ONCE, help="hosts beside each other")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--out", type=Path, help="a file to write the table to as well")
    return parser.parse_args()


def main() -> int:
    """Parse the arguments, let the ends happen, and print the table; 1 if anything was left."""
    options = _options()
    rows = run(options.count, options.kinds, options.at_once)
    table = markdown(rows, " ".join(["python -m benchmarks.ends", *sys.argv[1:]]))
    if options.out:
        options.out.write_text(table)
    print(table)
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
