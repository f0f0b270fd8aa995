"""What is measured of serving: rows a second, and how long a caller waits."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

import soma_core as soma
from benchmarks.serving.bare import bare
from benchmarks.serving.contestants import Answer, async_pool, batching_pool
from benchmarks.serving.model import SIZES, forward, row
from soma_core.testing import Echo

__all__ = ["Load", "bound", "load", "particulars", "table"]

Contestant = Callable[[], AbstractAsyncContextManager[Answer]]
_BATCH = 64
_CLOSE = 1e-4
_PAUSE = 0.02  # seconds between the calls of one caller, on the average


@dataclass(frozen=True)
class Load:
    """What callers got.

    Attributes:
        rows: Rows a second, of all callers.
        p50: Seconds that half of the calls took at most.
        p99: Seconds that 99 of 100 calls took at most.
    """

    rows: float
    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float], elapsed: float) -> Load:
        """From the time of each call, and of all together."""
        p50, p99 = np.quantile(seconds, [0.5, 0.99])
        return cls(len(seconds) / elapsed, float(p50), float(p99))


def bound(seconds: float = 1.0) -> float:
    """Rows a second of the model in this process, in whole batches."""
    batch = np.ones((_BATCH, SIZES[0]), np.float32)
    end, done = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        forward(batch)
        done += _BATCH
    return done / seconds


async def load(
    contestants: Mapping[str, Contestant], callers: int, seconds: float, rounds: int
) -> dict[str, Load]:
    """The median of several rounds of each contestant."""
    found: dict[str, list[Load]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            async with contestant() as answer:
                await _call(answer, callers, 0.5)
                found[name].append(await _call(answer, callers, seconds))
    return {
        name: sorted(loads, key=lambda one: one.rows)[rounds // 2] for name, loads in found.items()
    }


async def _call(answer: Answer, callers: int, seconds: float, pause: float = 0.0) -> Load:
    """Have callers call, each again once it is answered and has paused for about so long."""
    times: list[float] = []
    begun = time.perf_counter()
    end = begun + seconds

    async def caller(number: int) -> None:
        x, expected = row(number), forward(row(number))[0, 0]
        while (called := time.perf_counter()) < end:
            if pause:
                await asyncio.sleep(random.expovariate(1 / pause))
                called = time.perf_counter()
            out = await answer(x)
            times.append(time.perf_counter() - called)
            if abs(out[0, 0] - expected) > _CLOSE:
                raise AssertionError("an answer of somebody else")

    await asyncio.gather(*map(caller, range(callers)))
    return Load.of(times, time.perf_counter() - begun)


def table(found: Mapping[str, Load], most: float, callers: int) -> str:
    """Rows a second as Markdown, beside those of the first contestant and the bound."""
    first = next(iter(found.values()))
    lines = [
        f"| {callers} callers | rows/s | times the first | of the bound | p50 | p99 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {one.rows:,.0f} | {one.rows / first.rows:.2f} | {one.rows / most:.2f} | "
        f"{one.p50 * 1000:.1f} ms | {one.p99 * 1000:.1f} ms |"
        for name, one in found.items()
    ]
    return "\n".join(
        [*lines, f"| the bound: batches of {_BATCH} in-process | {most:,.0f} | | | | |"]
    )


async def particulars() -> str:
    """The other figures, as Markdown."""
    lines = ["| | measured |", "| --- | --- |"]
    async with async_pool() as alone, batching_pool() as batching, bare() as least:
        lines += [
            f"| p99 of 5 callers with batching, over that of one without | "
            f"{await _light_load(alone, batching)} |",
            f"| the same of a bare socket pair whose rows are sent together | "
            f"{await _light_load(least, least)} |",
            f"| the same with batching, where callers pause for {_PAUSE * 1000:g} ms | "
            f"{await _light_load(alone, batching, _PAUSE)} |",
        ]
    lines.append(f"| the model on five rows over one, in this process | {_of_five_rows():.1f} |")
    lines.append(
        f"| `await worker.forward` over `worker.forward`, 10 floats | {await _ratio():.2f} |"
    )
    lines.append(
        f"| 6 callers hang up in a pool of 2: the next call ends | {await _hang_up():.3f} s |"
    )
    return "\n".join(lines)


async def _light_load(alone: Answer, batching: Answer, pause: float = 0.0) -> str:
    """The p99 of five callers with batching, over one without; medians of interleaved rounds."""
    ones, fews = list[Load](), list[Load]()
    for _ in range(9):
        ones.append(await _call(alone, 1, 0.5, pause))
        fews.append(await _call(batching, 5, 0.5, pause))
    one, few = (statistics.median(load.p99 for load in loads) for loads in (ones, fews))
    half = statistics.median(few.p50 / one.p50 for one, few in zip(ones, fews, strict=True))
    return f"{few * 1000:.2f} ms / {one * 1000:.2f} ms = {few / one:.2f}; of the p50 {half:.2f}"


def _of_five_rows() -> float:
    """How much longer the model takes for five rows than for one, by the processor's clock."""
    one, five = row(1), np.repeat(row(1), 5, axis=0)
    found: dict[int, list[float]] = {1: [], 5: []}
    for _ in range(50):
        for x in (one, five):
            begun = time.process_time()
            for _ in range(20):
                forward(x)
            found[len(x)].append(time.process_time() - begun)
    return min(found[5]) / min(found[1])


async def _ratio() -> float:
    """How much longer an awaited call takes than a blocking one; medians of interleaved rounds."""
    x, blocking, awaited = [0.5] * 10, list[float](), list[float]()
    async with soma.connect_async("stdio", filters={"echo": Echo()}) as there:
        with soma.connect("stdio", filters={"echo": Echo()}) as here:
            for _ in range(10):
                for _ in range(500):
                    blocking.append(_seconds(lambda: here.forward("echo", x)))
                for _ in range(500):
                    begun = time.perf_counter()
                    await there.forward("echo", x)
                    awaited.append(time.perf_counter() - begun)
    return statistics.median(awaited) / statistics.median(blocking)


def _seconds(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


class _Nap(soma.Filter):
    """Takes as many seconds as its input says."""

    def forward(self, x: Any, state: Any) -> Any:
        time.sleep(x)
        return x


async def _hang_up() -> float:
    """Seconds until a call is answered, after six callers of 5 s calls have hung up."""
    async with soma.AsyncWorkerPool("stdio", 2, filters={"nap": _Nap()}) as pool:
        await asyncio.gather(*(pool.forward("nap", 0.0) for _ in range(10)))
        calls = [asyncio.create_task(pool.forward("nap", 5.0)) for _ in range(6)]
        await asyncio.sleep(0.3)
        begun = time.perf_counter()
        for call in calls:
            call.cancel()
        await pool.forward("nap", 0.0)
        return time.perf_counter() - begun
