"""One event loop, and the workers that the tests of a module share."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

import soma_core as soma

from ..support import filters as f


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def run(runner):
    """Runs a coroutine in the loop of the module."""
    return runner.run


@pytest.fixture(scope="module")
def worker(run):
    """A worker for tests that leave it as it was."""
    filters = {
        "echo": f.Echo(),
        "fail": f.Fail(),
        "mean": f.Mean(),
        "report": f.Report(),
        "scale": f.Scale(),
        "sleep": f.Sleep(),
    }
    worker = run(_connect("stdio", filters=filters, interrupt_grace=30.0))
    yield worker
    run(worker.close())


async def _connect(*arguments, **options):
    return await soma.connect_async(*arguments, **options)


async def until(condition, timeout=20.0):
    """Wait until something holds, and let the loop go on meanwhile."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


async def begun(note):
    """Wait until a call of ``filters.Sleep`` has written its note."""
    await until(lambda: os.path.exists(note))
