"""Measuring in interleaved rounds, so that a change of the machine's speed affects all alike."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from soma_core.benchmarking.contestants import Contestant, TimedCall, Unavailable
from soma_core.benchmarking.measurements import Measurements, Series
from soma_core.benchmarking.work import STATE, check, compute

_SECONDS_PER_ROUND = 0.4
_MOST_CALLS = 400
_SLOW = 2.0  # seconds; a contestant that is slower at a size sits out the larger ones


def pinnable() -> bool:
    """Whether this system lets a program choose its CPU."""
    return hasattr(os, "sched_setaffinity")


def run(
    contestants: Mapping[str, Contestant], sizes: Iterable[int], rounds: int, *, pinned: bool
) -> Measurements:
    """Measure contestants at sizes in bytes, which are multiples of 8.

    Raises:
        AssertionError: A contestant returned a wrong result.
    """
    measured = Measurements(pinned)
    with ExitStack() as running:
        if pinned:
            running.enter_context(_one_cpu())
        measured.ping = _ping()
        calls = _start(contestants, measured, running)
        for size in sizes:
            _measure_size(calls, size, rounds, measured)
    return measured


@contextmanager
def _one_cpu() -> Iterator[None]:
    """Keep this process, and those that it starts, on one CPU."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _start(
    contestants: Mapping[str, Contestant], measured: Measurements, running: ExitStack
) -> dict[str, TimedCall]:
    calls: dict[str, TimedCall] = {}
    for name, contestant in contestants.items():
        try:
            around = running.enter_context(contestant.around())
            started = time.perf_counter()
            call = running.enter_context(contestant.start(around))
        except Unavailable as reason:
            measured.absent[name] = str(reason)
            continue
        x = np.random.rand(10)
        y = call(x)
        measured.starts[name] = time.perf_counter() - started
        check(x, y)
        measured.series[name] = {}
        calls[name] = call
    return calls


def _measure_size(
    calls: dict[str, TimedCall], size: int, rounds: int, measured: Measurements
) -> None:
    x = np.random.rand(size // 8)
    measured.floors[size] = _floor(x)
    racing = {}
    for name, call in calls.items():
        before = [series.median for series in measured.series[name].values()]
        if not before or max(before) < _SLOW:
            racing[name] = call
            measured.series[name][size] = Series()
            check(x, call(x))
    for _ in range(rounds):
        for name, call in racing.items():
            measured.series[name][size].times += _round(call, x)


def _round(call: TimedCall, x: np.ndarray[Any, Any]) -> list[float]:
    times: list[float] = []
    while sum(times) < _SECONDS_PER_ROUND and len(times) < _MOST_CALLS:
        x[:: max(1, len(x) // 100)] = np.random.rand()  # fresh input, cheaply
        started = time.perf_counter()
        y = call(x)  # while the caller holds the last result, as most callers do
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
    """One byte there and back between two processes over AF_UNIX."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_ping_back, args=(ours, theirs), daemon=True)
    process.start()
    theirs.close()
    times = []
    for _ in range(2000):
        started = time.perf_counter()
        os.write(ours.fileno(), b".")
        os.read(ours.fileno(), 1)
        times.append(time.perf_counter() - started)
    ours.close()
    process.join()
    return float(np.median(times))


def _ping_back(ours: Any, theirs: Any) -> None:
    ours.close()
    while byte := os.read(theirs.fileno(), 1):
        os.write(theirs.fileno(), byte)
