"""The command: ``python -m benchmarks.ends`` ends workers in every way, and counts what is left."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from benchmarks.ends.kinds import KINDS, Kind
from benchmarks.faults.sites import Site, site
from benchmarks.table import Row, markdown, none_of

_COUNT = 1000


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.ends", description=__doc__)
    parser.add_argument("--count", type=int, default=_COUNT, help="ends of all kinds together")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--out", type=Path, help="a file to write the table to as well")
    return parser.parse_args()


def run(count: int, kinds: list[str]) -> list[Row]:
    """Let so many ends happen, as many of each kind over each transport."""
    cells = [(KINDS[name], transport) for name in kinds for transport in KINDS[name].transports]
    rows = []
    with site() as place:
        for number, (kind, transport) in enumerate(cells):
            ends = count // len(cells) + (number < count % len(cells))
            if ends == 0:
                continue
            begun = time.monotonic()
            rows.append(_end(place, kind, transport, ends))
            seconds = time.monotonic() - begun
            verdict = "nothing left" if rows[-1].kept else f"LEFT: {rows[-1].complaints}"
            print(
                f"{rows[-1].asked}: {ends} in {seconds:.0f} s, {verdict}",
                file=sys.stderr,
                flush=True,
            )
        rows.append(none_of("the daemon of all of them, stopped", place.stop(), "1 end"))
    return rows


def _end(place: Site, kind: Kind, transport: str, ends: int) -> Row:
    """Let one kind of end happen so many times."""
    left: list[str] = []
    for number in range(ends):
        try:
            kind.happen(place, transport)
        except Exception as error:
            left.append(f"end {number}: {error!r}")
        left += [f"end {number}: {what}" for what in place.leftovers()]
    size = f"{ends} end{'s' * (ends > 1)}"
    return none_of(f"{kind.name}, over {transport}", left, size)


def main() -> int:
    """Parse the arguments, let the ends happen, and print the table; 1 if anything was left."""
    options = _options()
    # A shell starts what is to run beside it without SIGINT, and hosts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows = run(options.count, options.kinds)
    table = markdown(rows, " ".join(["python -m benchmarks.ends", *sys.argv[1:]]))
    if options.out:
        options.out.write_text(table)
    print(table)
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
