"""Calls that are cancelled, late and killed at random: no answer is mixed up, lost or late."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from contextlib import suppress

import pytest

import soma_core as soma

from ..support import filters as f
from ..support import nightly

CALLS = 5_000
EXPECTED = (
    soma.DeadlineExceeded,
    soma.WorkerDied,
    TimeoutError,
    asyncio.CancelledError,
)


def work(x, state):
    number, seconds = x
    f.time.sleep(seconds)
    return number


class Caller:
    """Makes one call after the other, each of another fate."""

    def __init__(self, seed, target):
        self._random = random.Random(seed)
        self._target = target
        self.ended = Counter()

    async def call(self, number):
        fate = self._random.choices(
            [self._plain, self._late, self._timed_out, self._cancelled, self._killed],
            [60, 15, 15, 9, 1],
        )[0]
        try:
            answer = await fate(number)
        except EXPECTED as error:
            self.ended[type(error).__name__] += 1
        else:
            assert answer == number
            self.ended["answered"] += 1

    def _forward(self, number, *seconds, **options):
        return self._target.forward("work", [number, self._random.choice(seconds)], **options)

    async def _plain(self, number):
        return await self._forward(number, 0.0, 0.0, 0.001, 0.01)

    async def _late(self, number):
        timeout = self._random.choice([0.0005, 0.005, 0.03])
        return await self._forward(number, 0.0, 0.05, timeout=timeout)

    async def _timed_out(self, number):
        async with asyncio.timeout(self._random.choice([0.0, 0.0003, 0.002, 0.03])):
            return await self._forward(number, 0.0, 0.02, 0.05)

    async def _cancelled(self, number):
        task = asyncio.create_task(self._forward(number, 0.0, 0.01))
        asyncio.get_running_loop().call_later(self._random.random() / 100, task.cancel)
        return await task

    async def _killed(self, number):
        status = self._target.status()
        one = self._random.choice(status or [None]) if isinstance(status, list) else status
        if one is not None:
            with suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
        return await self._forward(number, 0.0)


class QuickCaller(Caller):
    """Its calls are quick, but for few: a pool sends them ahead."""

    def _forward(self, number, *seconds, **options):
        seconds = seconds if self._random.random() < 0.02 else (0.0,)
        return super()._forward(number, *seconds, **options)


@nightly
@pytest.mark.parametrize(("seed", "kind"), [(0, Caller), (1, Caller), (2, QuickCaller)])
def test_thousands_of_calls_of_every_fate(run, seed, kind):
    async def main():
        filters = {"work": f.Apply(work)}
        async with (
            soma.AsyncWorkerPool(n=2, filters=filters) as pool,
            soma.connect_async(filters=filters, restart="on-crash") as worker,
        ):
            slots = asyncio.Semaphore(60)
            callers = [kind(seed, pool), kind(seed, pool), kind(seed, worker)]

            async def call(number):
                async with slots:
                    await callers[number % 3].call(number)

            await asyncio.gather(*map(call, range(CALLS)))
            ended = sum((caller.ended for caller in callers), Counter())
            assert sum(ended.values()) == CALLS
            assert ended["answered"] > CALLS / 2
            assert pool.stats().running == pool.stats().queued == 0
            assert await pool.forward("work", [1, 0.0]) == 1
            assert await worker.forward("work", [2, 0.0]) == 2
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())
