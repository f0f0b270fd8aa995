"""A file that is larger than what the worker may hold: how long, and how much memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import SGDRegressor
from threadpoolctl import threadpool_limits

import soma_core as soma
from benchmarks.memory import peak
from benchmarks.training.home import Array

COLUMNS = 89
ROWS_PER_BATCH = 8192


@dataclass
class Reading:
    """What came of one file.

    Attributes:
        rows: How many rows were learned from.
        ratio: Times the same loop in this process.
        taken: Bytes that the worker held at its peak, beyond those that it held before.
    """

    rows: int
    ratio: float
    taken: int


def run(workers: Mapping[str, soma.Worker], rows: int) -> dict[str, Reading]:
    """By transport, BATCHED_FIT of scikit-learn's SGDRegressor over a file of so many rows."""
    with tempfile.TemporaryDirectory() as directory:
        x, y = _write(Path(directory), rows)
        with threadpool_limits(1):
            home = min(_at_home(x, y) for _ in range(2))
        return {name: _in_worker(worker, x, y, home) for name, worker in workers.items()}


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
    model, begun = SGDRegressor(random_state=0), time.perf_counter()
    for start in range(0, len(x), ROWS_PER_BATCH):
        rows = slice(start, start + ROWS_PER_BATCH)
        model.partial_fit(x[rows], y[rows])
        model.predict(x[rows])
    return time.perf_counter() - begun


def _in_worker(worker: soma.Worker, x_path: Path, y_path: Path, home: float) -> Reading:
    worker.load({"sgd": ("sklearn.SGDRegressor", {"random_state": 0})})
    few: Array = np.ones((10, COLUMNS), np.float32)
    worker.batched_fit(["sgd"], few, few[:, 0])
    process = Path(f"/proc/{worker.ping().pid}")
    (process / "clear_refs").write_text("5")
    before, begun = peak(process), time.perf_counter()
    files = soma.DataFile(x_path), soma.DataFile(y_path)
    state = worker.batched_fit(["sgd"], *files, batch_size=ROWS_PER_BATCH).states["sgd"]
    seconds = time.perf_counter() - begun
    worker.unload(["sgd"])
    return Reading(int(state["t_"]) - 1, seconds / home, peak(process) - before)
