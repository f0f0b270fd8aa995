"""An error that nobody has any more keeps nothing of its call, not even until garbage is collected.

Inputs may be large, and a program that collects garbage seldom would hold those of many calls.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import soma_core as soma

from ..support import wait_until


class Choosy:
    """Takes nothing."""

    def fit(self, x, y=None):
        raise ValueError("not this")

    def forward(self, x, state=None):
        raise ValueError("not this")


@contextmanager
def nothing_kept() -> Iterator[Callable[[], Any]]:
    """Makes inputs; those are gone in the end, without garbage collection."""
    kept = []

    def new() -> Any:
        x = np.ones(10)
        kept.append(weakref.ref(x))
        return x

    gc.collect()
    gc.disable()
    try:
        yield new
        wait_until(lambda: not any(reference() is not None for reference in kept))
    finally:
        gc.enable()


def refused(call: Callable[..., Any], *arguments: Any) -> None:
    try:
        call(*arguments)
    except (soma.RemoteError, ValueError):
        return
    raise AssertionError("it was taken")


@pytest.mark.parametrize("transport", ["inline", "socket"])
def test_a_worker(transport, options):
    with (
        soma.connect(transport, **options(transport), filters={"choosy": Choosy()}) as worker,
        nothing_kept() as new,
    ):
        refused(lambda: worker.forward("choosy", new()))
        refused(lambda: worker.fit("choosy", new()))


def test_a_pool(options):
    given = {**options("socket"), "filters": {"choosy": Choosy()}}
    with soma.WorkerPool("socket", 1, **given) as pool, nothing_kept() as new:
        refused(lambda: pool.forward("choosy", new()))
        refused(lambda: pool.submit("choosy", new()).result())
        refused(lambda: list(pool.map("choosy", [new(), new()])))
        refused(lambda: pool.fit("choosy", new()))
        assert isinstance(pool.submit("choosy", new()).exception(), soma.RemoteError)


def test_an_executor():
    with soma.Executor(1) as executor, nothing_kept() as new:
        refused(lambda: executor.submit(Choosy().fit, new()).result())


def test_an_event_loop(options):
    async def use(used: Any, new: Callable[[], Any]) -> None:
        for call in (used.forward, used.fit):
            try:
                await call("choosy", new())
            except soma.RemoteError:
                continue
            raise AssertionError("it was taken")

    async def use_map(pool: soma.AsyncWorkerPool, new: Callable[[], Any]) -> None:
        try:
            async for _ in pool.map("choosy", [new(), new(), new()]):
                raise AssertionError("it was taken")
        except soma.RemoteError:
            return

    async def main(new: Callable[[], Any]) -> None:
        given = {**options("socket"), "filters": {"choosy": Choosy()}}
        async with (
            soma.AsyncWorkerPool("socket", 1, **given) as pool,
            soma.connect_async("socket", **given) as worker,
        ):
            await use(pool, new)
            await use_map(pool, new)
            await use(worker, new)

    with nothing_kept() as new:
        asyncio.run(main(new))
