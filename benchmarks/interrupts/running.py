"""Running: hosts that call, each interrupted again and again, and what they say of it."""

from __future__ import annotations

import multiprocessing
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from benchmarks.faults.sites import Site, site
from benchmarks.table import Row, none_of

__all__ = ["run"]

_WHERE = ("stdio", "socket", "session")
_PATIENCE = 150.0  # seconds for a host to say something; the machine may have other work
_ROUND = 25  # presses for each host, which then ends and must leave nothing


class _Cell(NamedTuple):
    kind: str
    where: str

    def __str__(self) -> str:
        return f"Ctrl-C, {self.kind}, {self.where}: lost, wrong, hung or left"


class _Found(NamedTuple):
    cell: _Cell
    presses: int
    raised: int
    complaints: list[str]


def run(count: int, kinds: list[str], at_once: int, seed: int) -> list[Row]:
    """Press so many times, as often for each kind and each way to reach a worker.

    Args:
        count: How many, all together.
        kinds: Which kinds.
        at_once: Hosts that are pressed beside each other.
        seed: Of what is drawn by chance.
    """
    cells = [_Cell(kind, where) for kind in kinds for where in _WHERE if _fits(kind, where)]
    rounds = [cells[number % len(cells)] for number in range(-(-count // _ROUND))]
    left = count
    jobs = []
    for number, cell in enumerate(rounds):
        jobs.append((cell, min(_ROUND, left), f"{seed}-{number}"))
        left -= _ROUND
    presses: Counter[_Cell] = Counter()
    raised: Counter[_Cell] = Counter()
    complaints: dict[_Cell, list[str]] = defaultdict(list)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, mp_context=context) as sites:
        for found in sites.map(_round, *zip(*jobs, strict=True)):
            presses[found.cell] += found.presses
            raised[found.cell] += found.raised
            complaints[found.cell] += found.complaints
    return [
        none_of(
            str(cell),
            complaints[cell],
            f"{presses[cell]} presses, of which {raised[cell]} came before the result",
        )
        for cell in cells
        if presses[cell]
    ]


def _fits(kind: str, where: str) -> bool:
    return where != "session" or kind == "worker"  # a pool is many workers


def _round(cell: _Cell, presses: int, seed: str) -> _Found:
    """Press so many times during the calls of one host; what went wrong, and what was left."""
    with site() as place:
        done = raised = 0
        with _host(place, cell, seed, presses) as host:
            chance = random.Random(seed)
            complaints: list[str] = []
            while done < presses and not complaints:
                told = _press(host, chance)
                done += 1
                raised += told == "interrupted"
                if told not in ("interrupted", "result"):
                    complaints = [f"seed {seed}, press {done}: {told}"]
            complaints += _end(host)
        if not complaints:
            complaints = [f"seed {seed}: {what}" for what in place.leftovers()]
        complaints += [] if complaints else [f"seed {seed}: {what}" for what in place.stop()]
    print(f"{cell}: {done} presses, {complaints or 'nothing'}", file=sys.stderr, flush=True)
    return _Found(cell, done, raised, complaints)


def _host(place: Site, cell: _Cell, seed: str, presses: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.interrupts.host", cell.kind, cell.where]
    return subprocess.Popen(
        [*command, str(place.path), seed, str(presses)],
        env=place.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # or a line could wait where select does not see it
        start_new_session=True,
    )


def _press(host: subprocess.Popen[bytes], chance: random.Random) -> str:
    """Press during the next call of a host; what it says, or what is wrong."""
    told = _line(host)
    if not told.startswith("calls "):
        return _failure(host, told)
    time.sleep(float(told.split()[1]) * chance.random())
    os.killpg(host.pid, signal.SIGINT)  # as a terminal does
    told = _line(host)
    return told if told in ("interrupted", "result") else _failure(host, told)


def _failure(host: subprocess.Popen[bytes], told: str) -> str:
    if host.poll() is None and not told:
        host.send_signal(signal.SIGABRT)  # with the stacks of its threads
    try:
        _, errors = host.communicate(timeout=20.0)
    except subprocess.TimeoutExpired:
        return f"{told!r}, and it does not end"
    return f"{told!r} {errors[-6000:].decode(errors='replace')}"


def _end(host: subprocess.Popen[bytes]) -> list[str]:
    """Wait until a host has ended; what is wrong with that."""
    if host.stderr is None or host.stderr.closed:
        return []
    try:
        _, errors = host.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return [_failure(host, "")]
    finally:
        host.kill()
    return [] if host.returncode == 0 else [f"it ended with {host.returncode}: {errors[-3000:]!r}"]


def _line(host: subprocess.Popen[bytes]) -> str:
    assert host.stdout is not None
    ready, _, _ = select.select([host.stdout], [], [], _PATIENCE)
    return host.stdout.readline().decode().rstrip("\n") if ready else ""
