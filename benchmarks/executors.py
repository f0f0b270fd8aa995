"""Functions a second: ``python -m benchmarks.executors`` runs them in soma's and other executors.

Each executor has as many workers as there are cores, started and not forked, and warm. The rounds
are interleaved; a table shows the median of each, as a multiple of the ProcessPoolExecutor's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import operator
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np

import soma_core as soma
from soma_core.benchmarking import Unavailable

BASELINE = "ProcessPoolExecutor"
WORKERS = len(os.sched_getaffinity(0))


def total(x: Any) -> float:
    return float(np.sum(x))


def add(a: int, b: int) -> int:
    return a + b


SHORT, CHUNKS = list(range(2000)), list(range(100_000))
KIB, MIB = [np.ones(1 << 10)] * 1000, [np.ones(1 << 17)] * 100
WORK: dict[str, tuple[int, Callable[[Executor], Any]]] = {
    "a short function": (len(SHORT), lambda e: list(e.map(operator.neg, SHORT))),
    "of the script": (len(SHORT), lambda e: list(e.map(add, SHORT, SHORT))),
    "in chunks of 1,000": (
        len(CHUNKS),
        lambda e: list(e.map(operator.neg, CHUNKS, chunksize=1000)),
    ),
    "an array of 8 KiB": (len(KIB), lambda e: list(e.map(total, KIB))),
    "an array of 1 MiB": (len(MIB), lambda e: list(e.map(total, MIB))),
}
"""How many calls each is, and what makes them."""


@contextmanager
def loky() -> Iterator[Executor]:
    """loky's reusable executor."""
    try:
        from loky import get_reusable_executor
    except ImportError as error:
        raise Unavailable("loky is not installed: pip install '.[peers]'") from error
    executor = get_reusable_executor(max_workers=WORKERS, timeout=600)
    try:
        yield executor
    finally:
        executor.shutdown(kill_workers=True)


EXECUTORS: dict[str, Callable[[], AbstractContextManager[Executor]]] = {
    BASELINE: lambda: ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")),
    "loky": loky,
    "soma.Executor": lambda: soma.Executor(WORKERS),
}


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """The median of the calls a second, by work and executor."""
    with ExitStack() as running:
        executors: dict[str, Executor] = {}
        for name, start in EXECUTORS.items():
            try:
                executors[name] = running.enter_context(start())
            except Unavailable as reason:
                print(f"{name} takes no part: {reason}", file=sys.stderr)
        return {work: _rates(*calls, executors, rounds) for work, calls in WORK.items()}


def _rates(
    count: int, run: Callable[[Executor], Any], executors: dict[str, Executor], rounds: int
) -> dict[str, float]:
    rates: dict[str, list[float]] = {name: [] for name in executors}
    for number in range(rounds + 1):
        for name, executor in executors.items():
            started = time.perf_counter()
            run(executor)
            if number:  # the first round starts workers and imports
                rates[name].append(count / (time.perf_counter() - started))
    return {name: statistics.median(found) for name, found in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    measured = measure(parser.parse_args().rounds)
    names = list(next(iter(measured.values())))
    print(f"| calls a second, {WORKERS} workers | {' | '.join(names)} |")
    print(f"|{' --- |' * (len(names) + 1)}")
    for work, rates in measured.items():
        times = [f"{rates[name] / rates[BASELINE]:.2f}" for name in names[1:]]
        print(f"| {work} | {rates[BASELINE]:,.0f} | {' | '.join(times)} |")


if __name__ == "__main__":
    main()
