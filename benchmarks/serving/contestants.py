"""The ways to serve: each gives a coroutine function that answers one row."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from typing import Any

import soma_core as soma
from benchmarks.serving.model import Array, Served, forward
from benchmarks.serving.peers import lit_serve, ray_serve

__all__ = ["CONTESTANTS", "Answer", "available"]

Answer = Callable[[Array], Awaitable[Array]]
_PROCESSES = 2
_POOL: dict[str, Any] = {"n": _PROCESSES, "filters": {"model": Served()}, "threads": 1}


@asynccontextmanager
async def worker_pool() -> AsyncIterator[Answer]:
    """A WorkerPool, whose futures are wrapped."""
    with soma.WorkerPool("stdio", **_POOL) as pool:
        yield lambda x: asyncio.wrap_future(pool.submit("model", x))


@asynccontextmanager
async def async_pool() -> AsyncIterator[Answer]:
    """An AsyncWorkerPool."""
    async with soma.AsyncWorkerPool("stdio", **_POOL) as pool:
        yield lambda x: pool.forward("model", x)


@asynccontextmanager
async def batching_pool() -> AsyncIterator[Answer]:
    """An AsyncWorkerPool that joins calls."""
    batching = soma.Batching(max_rows=64, max_delay=0.005)
    async with soma.AsyncWorkerPool("stdio", batching=batching, **_POOL) as pool:
        yield lambda x: pool.forward("model", x)


@asynccontextmanager
async def process_pool() -> AsyncIterator[Answer]:
    """The standard library's process pool, by ``run_in_executor``."""
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(_PROCESSES, multiprocessing.get_context("spawn")) as executor:
        yield lambda x: loop.run_in_executor(executor, forward, x)


@asynccontextmanager
async def loky() -> AsyncIterator[Answer]:
    """The executor of joblib, by ``run_in_executor``."""
    from loky import get_reusable_executor

    loop = asyncio.get_running_loop()
    executor = get_reusable_executor(_PROCESSES)
    try:
        yield lambda x: loop.run_in_executor(executor, forward, x)
    finally:
        executor.shutdown(kill_workers=True)


CONTESTANTS: dict[str, Callable[[], AbstractAsyncContextManager[Answer]]] = {
    "ProcessPoolExecutor": process_pool,
    "loky": loky,
    "WorkerPool, wrap_future": worker_pool,
    "AsyncWorkerPool": async_pool,
    "AsyncWorkerPool, batching": batching_pool,
    "Ray Serve handle, serve.batch": ray_serve,
    "LitServe over HTTP, batching": lit_serve,
}
_NEEDS = {
    "loky": "loky",
    "Ray Serve handle, serve.batch": "ray.serve",
    "LitServe over HTTP, batching": "litserve",
}


def available(name: str) -> bool:
    """Whether what a contestant needs is installed."""
    try:
        return name not in _NEEDS or import_module(_NEEDS[name]) is not None
    except ImportError:
        return False
