"""Faults of every kind, at every moment, over every transport, drawn by chance."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice, product

import soma_core as soma
from benchmarks.faults.sites import TRANSPORTS, Site, site
from benchmarks.table import Row, none_of
from soma_core.testing import Echo, Fault, Moment, inject

_JOBS = 3


def run(count: int, seed: int) -> list[Row]:
    """Inject so many faults, several at a time."""
    cases = list(product(TRANSPORTS, Fault, Moment))
    random.Random(seed).shuffle(cases)
    with site() as place, ThreadPoolExecutor(_JOBS) as pool:
        found = list(pool.map(lambda case: _try(place, *case), islice(cycle(cases), count)))
        left = place.leftovers() + place.stop()
    size = f"{count:,} faults: {len(Fault)} kinds, {len(Moment)} moments, 2 transports"
    titles = [
        "calls that neither return nor raise by deadline + 3 s",
        "calls that end otherwise than declared",
        "workers that do not work on, or anew, after a fault",
    ]
    rows = [
        none_of(title, [text for each in found for text in each[column]], size)
        for column, title in enumerate(titles)
    ]
    return [*rows, none_of("processes, descriptors, files left after them", left, size)]


def _try(place: Site, transport: str, fault: Fault, moment: Moment) -> tuple[list[str], ...]:
    """What was late, what ended wrongly, and what did not work afterwards."""
    name = f"{fault.description} at {moment} over {transport}"
    late, wrong, after = [], [], []
    worker = place.connect(transport, filters={"echo": Echo()}, start_timeout=60.0)
    try:
        trial = inject(worker, fault, moment)
        if trial.late:
            late.append(f"{name}: {trial}")
        if trial.end not in fault.ends:
            wrong.append(f"{name}: {trial}")
        if trial.worker_survived:
            after += _echoes(worker, name)
    finally:
        worker.close()
    if not trial.worker_survived:
        with place.connect(transport, filters={"echo": Echo()}) as another:
            after += _echoes(another, name)
    return late, wrong, after


def _echoes(worker: soma.Worker, name: str) -> list[str]:
    try:
        answer = worker.forward("echo", [name], timeout=20.0)
    except soma.SomaError as error:
        return [f"after {name}: {error!r}"]
    return [] if answer == [name] else [f"after {name}: got {answer!r}"]
