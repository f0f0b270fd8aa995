"""Messages mutated from valid ones, in both dialects, over both transports."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.faults.sites import TRANSPORTS, open_socket, open_stdio, site
from benchmarks.table import Row
from soma_core.testing import FuzzRun, Mutator
from soma_core.transport import Dialect

_SLICE = 20_000  # mutants for each engine
_CLOSING = 1000  # one of so many ends its stream, and needs an engine of its own
_JOBS = 2


def run(count: int, seed: int) -> list[Row]:
    """Send so many mutants, a share of them ending their stream."""
    kinds = list(product(TRANSPORTS, Dialect))
    share = -(-count // len(kinds))
    with site() as place:
        with ThreadPoolExecutor(_JOBS) as pool:
            parts = [
                pool.submit(_bombard, place.path, kind, min(_SLICE, share - start), seed + start)
                for start in range(0, share, _SLICE)
                for kind in kinds
            ]
            outcomes = [part.result() for part in parts]
        left = place.leftovers() + place.stop()
    sent = sum(outcome[0] for outcome in outcomes)
    closing = sum(outcome[1] for outcome in outcomes)
    complaints = [text for outcome in outcomes for text in outcome[2]] + left
    good = sent - sum(len(outcome[2]) for outcome in outcomes)
    return [
        Row(
            "mutated messages with exactly one reply, after which the next message (or, where "
            "the stream ends, the next connection) works",
            "all",
            f"{good:,} of {sent:,}",
            f"2 dialects, 2 transports; {closing:,} of them end their stream",
            not complaints,
            complaints,
        )
    ]


def _bombard(
    path: Path, kind: tuple[str, Dialect], count: int, seed: int
) -> tuple[int, int, list[str]]:
    """Send mutants to one engine; how many, how many that ended a stream, and the complaints."""
    transport, dialect = kind
    children: list[subprocess.Popen[bytes]] = []
    connect: Callable[[], socket.socket] = (
        partial(open_stdio, children) if transport == "stdio" else partial(open_socket, path)
    )
    mutator, fuzz_run = Mutator(seed), FuzzRun(connect)
    closing = max(1, count // _CLOSING)
    fuzz_run.send(mutator.mutants(dialect, count - closing))
    fuzz_run.close()
    for _ in range(closing):
        fuzz_run.send_closing(mutator.closing(dialect))
    statuses = [child.wait(30.0) for child in children]
    ended = [f"a daemon ended with status {status}" for status in statuses if status]
    return fuzz_run.sent, closing, fuzz_run.failures + ended
