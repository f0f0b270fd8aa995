"""What a worker holds at its peak while it trains on one large array."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

import soma_core as soma
from benchmarks.memory import peak
from benchmarks.training import pipe
from benchmarks.training.home import Network

WIDTH = 1024
NETWORK = Network((WIDTH, 10), seed=0)
PIPE = "multiprocessing.Pipe"
ROWS_PER_BATCH = 4096


def run(workers: Mapping[str, soma.Worker], size: int, *, peers: bool) -> dict[str, float]:
    """By contestant, what its process took beyond what it had before, in arrays.

    Args:
        workers: One for each transport.
        size: Bytes of the array.
        peers: Whether a process that is sent pickles takes part.
    """
    rows = size // (4 * WIDTH)
    x = np.full((rows, WIDTH), 0.25, np.float32)
    y = np.arange(rows) % 10
    found = {}
    for name, worker in workers.items():
        worker.load({"net": NETWORK.as_filter})

        def fit(worker: soma.Worker = worker, count: int = rows) -> object:
            return worker.batched_fit(
                ["net"], x[:count], y[:count], batch_size=ROWS_PER_BATCH, return_states=False
            )

        fit(count=ROWS_PER_BATCH)
        found[f"soma {name}"] = _taken(worker.ping().pid, fit) / x.nbytes
        worker.unload(["net"])
    if peers:
        with pipe.peer(NETWORK) as (ask, pid):
            ask("epoch", x[:ROWS_PER_BATCH], y[:ROWS_PER_BATCH])
            found[PIPE] = _taken(pid, lambda: ask("epoch", x, y)) / x.nbytes
    return found


def _taken(pid: int, fit: Callable[[], object]) -> int:
    process = Path(f"/proc/{pid}")
    (process / "clear_refs").write_text("5")
    before = peak(process)
    fit()
    return peak(process) - before
