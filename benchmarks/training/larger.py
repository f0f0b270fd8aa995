"""A file that is larger than what the worker may hold: how long, and how much memory."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import SGDRegressor
from threadpoolctl import threadpool_limits

import soma_core as soma
from benchmarks.memory import peak
from benchmarks.training import races
from benchmarks.training.home import Array

COLUMNS = 89
ROWS_PER_BATCH = 8192
ROUNDS = 3
BASELINE = "the same loop here"


@dataclass
class Reading:
    """What came of one file.

    Attributes:
        rows: How many rows were learned from.
        ratio: Times the same loop in this process.
        processor: The same of processor time.
        taken: Bytes that the worker held at its peak, beyond those that it held before.
    """

    rows: int
    ratio: float
    processor: float
    taken: int


def run(workers: Mapping[str, soma.Worker], rows: int) -> dict[str, Reading]:
    """By transport, BATCHED_FIT of scikit-learn's SGDRegressor over a file of so many rows."""
    pids = {name: worker.ping().pid for name, worker in workers.items()}
    with tempfile.TemporaryDirectory() as directory, threadpool_limits(1):
        paths = _write(Path(directory), rows)
        contestants = {BASELINE: partial(_at_home, *paths)}
        for name, worker in workers.items():
            worker.load({"sgd": ("sklearn.SGDRegressor", {"random_state": 0})})
            few: Array = np.ones((10, COLUMNS), np.float32)
            worker.batched_fit(["sgd"], few, few[:, 0])
            contestants[name] = partial(_in_worker, worker, *paths)
        before = {name: _peak_from_here(pid) for name, pid in pids.items()}
        race = races.run(contestants, BASELINE, ROUNDS, 1, list(pids.values()))
        found = {}
        for name, worker in workers.items():
            taken = _peak(pids[name]) - before[name]
            seen = _rows_seen(worker)
            found[name] = Reading(seen, race.ratio(name), race.processor(name), taken)
            worker.unload(["sgd"])
    return found


def _write(directory: Path, rows: int) -> tuple[Path, Path]:
    draw = np.random.default_rng(0)
    paths = directory / "x.npy", directory / "y.npy"
    x: Any = np.lib.format.open_memmap(paths[0], "w+", np.float32, (rows, COLUMNS))
    for start in range(0, rows, 1 << 16):
        part = x[start : start + (1 << 16)]
        part[:] = draw.normal(size=part.shape)
    x.flush()
    np.save(paths[1], draw.normal(size=rows).astype(np.float32))
    return paths


def _at_home(x_path: Path, y_path: Path) -> float:
    x, y = (np.load(path, mmap_mode="r") for path in (x_path, y_path))
    model = SGDRegressor(random_state=0)
    for start in range(0, len(x), ROWS_PER_BATCH):
        rows = slice(start, start + ROWS_PER_BATCH)
        model.partial_fit(x[rows], y[rows])
        model.predict(x[rows])
    return float(model.coef_.sum())


def _in_worker(worker: soma.Worker, x_path: Path, y_path: Path) -> float:
    files = soma.DataFile(x_path), soma.DataFile(y_path)
    fitted = worker.batched_fit(["sgd"], *files, batch_size=ROWS_PER_BATCH)
    return float(fitted.states["sgd"]["coef_"].sum())


def _rows_seen(worker: soma.Worker) -> int:
    return int(worker.get_state("sgd").fit_state["t_"]) - 1


def _peak_from_here(pid: int) -> int:
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _peak(pid)


def _peak(pid: int) -> int:
    return peak(Path(f"/proc/{pid}"))
