"""Measuring: interleaved rounds, so that a machine whose speed drifts drifts for everyone."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.peers import CONTESTANTS, Call, Unavailable
from benchmarks.work import STATE, check, compute

_SECONDS_PER_ROUND = 0.4
_MOST_CALLS = 400
_SLOW = 2.0  # seconds; a contestant that is slower at a size sits out the larger ones


@dataclass
class Series:
    """The times of one contestant at one size, in seconds."""

    times: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle of all calls."""
        return float(np.median(self.times))

    @property
    def p99(self) -> float:
        """What 99 of 100 calls stay below."""
        return float(np.percentile(self.times, 99))


@dataclass
class Outcome:
    """All that one run measured.

    Attributes:
        pinned: Whether everybody ran on one CPU.
        series: By contestant, then by size in bytes.
        starts: Seconds from nothing to the first result, by contestant.
        absent: Why a contestant did not take part.
        floors: Seconds by size: copying the array twice, and computing.
        ping: Seconds for one byte there and back over AF_UNIX.
    """

    pinned: bool
    series: dict[str, dict[int, Series]] = field(default_factory=dict)
    starts: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    floors: dict[int, float] = field(default_factory=dict)
    ping: float = 0.0


def run(names: Iterable[str], sizes: Iterable[int], rounds: int, *, pinned: bool) -> Outcome:
    """Measure contestants at sizes in bytes."""
    allowed = os.sched_getaffinity(0)
    outcome = Outcome(pinned)
    with ExitStack() as running:
        if pinned:
            os.sched_setaffinity(0, {min(allowed)})
            running.callback(os.sched_setaffinity, 0, allowed)
        outcome.ping = _ping()
        calls = _start(names, outcome, running)
        for size in sizes:
            _measure_size(calls, size, rounds, outcome)
    return outcome


def _start(names: Iterable[str], outcome: Outcome, running: ExitStack) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    for name in names:
        started = time.perf_counter()
        try:
            call = running.enter_context(CONTESTANTS[name]())
        except Unavailable as reason:
            outcome.absent[name] = str(reason)
            continue
        x = np.random.rand(10)
        check(x, call(x))
        outcome.starts[name] = time.perf_counter() - started
        outcome.series[name] = {}
        calls[name] = call
    return calls


def _measure_size(calls: dict[str, Call], size: int, rounds: int, outcome: Outcome) -> None:
    x = np.random.rand(size // 8)
    outcome.floors[size] = _floor(x)
    racing = {}
    for name, call in calls.items():
        before = [series.median for series in outcome.series[name].values()]
        if not before or max(before) < _SLOW:
            racing[name] = call
            outcome.series[name][size] = Series()
            check(x, call(x))
    for _ in range(rounds):
        for name, call in racing.items():
            outcome.series[name][size].times += _round(call, x)


def _round(call: Call, x: np.ndarray[Any, Any]) -> list[float]:
    times: list[float] = []
    while sum(times) < _SECONDS_PER_ROUND and len(times) < _MOST_CALLS:
        x[:: max(1, len(x) // 100)] = np.random.rand()  # fresh input, cheaply
        started = time.perf_counter()
        y = call(x)
        times.append(time.perf_counter() - started)
        check(x, y)
    return times


def _floor(x: np.ndarray[Any, Any]) -> float:
    """Two copies into touched memory, and the computation: no isolation can cost less."""
    there, back = x.copy(), x.copy()
    times = []
    for _ in range(9):
        started = time.perf_counter()
        np.copyto(there, x)
        y = compute(there, STATE)
        np.copyto(back, y)
        times.append(time.perf_counter() - started)
        del y
    return float(np.median(times))


def _ping() -> float:
    """One byte there and back between two processes' worth of threads over AF_UNIX."""
    ours, theirs = socket.socketpair()

    def echo() -> None:
        while byte := theirs.recv(1):
            theirs.send(byte)

    thread = threading.Thread(target=echo)
    thread.start()
    times = []
    for _ in range(2000):
        started = time.perf_counter()
        ours.send(b".")
        ours.recv(1)
        times.append(time.perf_counter() - started)
    ours.close()
    thread.join()
    theirs.close()
    return float(np.median(times))
