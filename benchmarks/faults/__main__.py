"""The command: ``python -m benchmarks.faults`` injects faults and prints what they came to."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults import clients, hosts, injected, kills, mutants, soak
from benchmarks.table import Row, markdown

Part = Callable[[argparse.Namespace], list[Row]]

PARTS: dict[str, Part] = {
    "injected": lambda o: injected.run(o.injected, o.seed),
    "kills": lambda o: kills.run(o.kills, o.seed),
    "mutants": lambda o: mutants.run(o.mutants, o.seed),
    "clients": lambda o: clients.run(o.clients, o.seconds),
    "soak": lambda o: soak.run(o.soak, o.seed),
    "hosts": lambda o: hosts.run(o.hosts),
}
# Sizes of a long run, as the documentation has its figures from, and of one of some minutes.
FULL = {"injected": 1000, "kills": 1000, "mutants": 1_000_000, "clients": 64, "soak": 1_000_000}
FULL |= {"hosts": 20, "seconds": 20}
QUICK = {"injected": 60, "kills": 40, "mutants": 4000, "clients": 16, "soak": 10_000}
QUICK |= {"hosts": 3, "seconds": 5}
SAYS = {
    "injected": "faults injected",
    "kills": "workers killed under load",
    "mutants": "mutated messages",
    "clients": "clients at once",
    "soak": "calls of the long run",
    "hosts": "hosts killed, over each transport",
    "seconds": "seconds for which the clients call",
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, some minutes in all")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--seed", type=int, default=1, help="of everything drawn by chance")
    parser.add_argument("--out", type=Path, help="a file to write the table to as well")
    for name, size in FULL.items():
        usual = f"{SAYS[name]} (default {size:,}, with --quick {QUICK[name]:,})"
        parser.add_argument(f"--{name}", type=int, help=usual)
    options = parser.parse_args()
    for name, size in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, size)
    return options


def main() -> int:
    """Parse the arguments, run the parts, and print the table; 1 if a promise was broken."""
    options = _options()
    command = " ".join(["python -m benchmarks.faults", *sys.argv[1:]])
    rows: list[Row] = []
    for name in options.only:
        begun = time.monotonic()
        found = PARTS[name](options)
        rows += found
        verdict = "kept" if all(row.kept for row in found) else "BROKEN"
        print(f"{name}: {verdict}, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        if options.out:
            options.out.write_text(markdown(rows, command))
    print(markdown(rows, command))
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
