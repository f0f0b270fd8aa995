"""Running: lets ends happen, at several sites at once, and says what was left after each."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import NamedTuple

from benchmarks.ends.kinds import KINDS
from benchmarks.faults.sites import Site, site
from benchmarks.table import Row, none_of

__all__ = ["run"]


class _Cell(NamedTuple):
    """A kind of end over a transport."""

    kind: str
    transport: str

    def __str__(self) -> str:
        return f"{KINDS[self.kind].name}, over {self.transport}"


class _Part(NamedTuple):
    """What one host came to, which let its ends happen one after the other."""

    left: list[tuple[_Cell, str]]
    by_daemon: list[str]


def run(count: int, kinds: list[str], at_once: int) -> list[Row]:
    """Let so many ends happen, as many of each kind over each transport.

    Args:
        count: How many, all together.
        kinds: Which kinds.
        at_once: Hosts that let them happen beside each other, each with a daemon of its own.
    """
    cells = [_Cell(kind, transport) for kind in kinds for transport in KINDS[kind].transports]
    ends = [cells[number % len(cells)] for number in range(count)]
    shares = [share for first in range(at_once) if (share := ends[first::at_once])]
    left: dict[_Cell, list[str]] = defaultdict(list)
    by_daemons: list[str] = []
    for part in _happened(shares):
        by_daemons += part.by_daemon
        for cell, what in part.left:
            left[cell].append(what)
    rows = [
        none_of(str(cell), left[cell], f"{number} end{'s' * (number > 1)}")
        for cell, number in Counter(ends).items()
    ]
    size = f"{len(shares)} end{'s' * (len(shares) > 1)}"
    return [*rows, none_of("the daemon of all of them, stopped", by_daemons, size)]


def _happened(shares: list[list[_Cell]]) -> Iterator[_Part]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(shares), mp_context=context) as hosts:
        for share in as_completed([hosts.submit(_let_happen, ends) for ends in shares]):
            yield share.result()


def _let_happen(ends: list[_Cell]) -> _Part:
    """In a process of its own: let ends happen one after the other."""
    # A shell starts what is to run beside it without SIGINT, and hosts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    left = []
    with site() as place:
        for cell in ends:
            begun = time.monotonic()
            found = _end(place, cell)
            verdict = f"LEFT {found}" if found else "nothing left"
            sys.stderr.write(f"{cell}: {time.monotonic() - begun:.1f} s, {verdict}\n")
            left += [(cell, what) for what in found]
        return _Part(left, place.stop())


def _end(place: Site, cell: _Cell) -> list[str]:
    """Let one end happen; what was left by it."""
    try:
        KINDS[cell.kind].happen(place, cell.transport)
    except Exception as error:
        return [repr(error), *place.leftovers()]
    return place.leftovers()
