"""The command: ``python -m tests.fuzz --minutes 10`` looks for streams that break a promise.

Every failure is written to a file, which ``--reproduce FILE`` runs again.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .found import load, save
from .inputs import Inputs
from .target import Failure, run

REPORT_EVERY = 30.0  # seconds


def main() -> int:
    """Parse the arguments and fuzz; 1 if anything was found."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="default: from the clock")
    parser.add_argument("--out", type=Path, default=Path("fuzz-found"), help="for what it finds")
    parser.add_argument("--most", type=int, default=20, help="end after so many failures")
    parser.add_argument("--reproduce", type=Path, nargs="+", metavar="FILE", help="run these only")
    options = parser.parse_args()
    if options.reproduce:
        return _reproduce(options.reproduce)
    seed = time.time_ns() % 2**32 if options.seed is None else options.seed
    return _fuzz(seed, options.minutes * 60.0, options.most, options.out)


def _reproduce(paths: list[Path]) -> int:
    failed = 0
    for path in paths:
        try:
            run(load(path))
            print(f"{path}: sound")
        except Failure as failure:
            failed = 1
            print(f"{path}: {failure}")
    return failed


def _fuzz(seed: int, seconds: float, most: int, out: Path) -> int:
    print(f"seed {seed}", flush=True)
    inputs, shown, failures = Inputs(seed), set[str](), dict[str, Path]()
    begun = told = time.monotonic()
    count = size = 0
    while (now := time.monotonic()) - begun < seconds and len(failures) < most:
        given = inputs.draw()
        try:
            new = run(given) - shown
            if new:
                shown |= new
                inputs.keep(given)
        except Failure as failure:
            reason = str(failure).strip().splitlines()[-1][:200]
            if reason not in failures:
                failures[reason] = save(given, out)
                print(f"FOUND {failures[reason]}: {reason}", flush=True)
        count, size = count + 1, size + len(given.stream)
        if now - told > REPORT_EVERY:
            told = now
            print(f"{now - begun:.0f} s, {count:,} streams, {len(shown)} kinds", file=sys.stderr)
    print(
        f"{count:,} streams of {size:,} bytes in {time.monotonic() - begun:.0f} s, seed {seed}: "
        f"{len(shown)} kinds of reply, {len(failures)} failures"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
