"""A plugin for pytest: ``soma.connect`` gives an AsyncWorker behind the methods of a Worker.

So tests that were written for a Worker, and the kit for transports, run over the other driver of
the same conversation: ``pytest -p tests.asynchronous.adapter tests/transports/test_worker.py``.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from typing import Any

import soma_core as soma
from soma_core.channel.contract import Transport
from soma_core.client.handle import Handle
from soma_core.client.remote_filter import RemoteFilter
from soma_core.client.worker_options import WorkerOptions
from soma_core.testing.transports import base, deaths, probes

__all__ = ["connect"]


def _start_loop() -> None:
    global _loop
    _loop = asyncio.new_event_loop()
    threading.Thread(target=_loop.run_forever, name="the loop of the tests", daemon=True).start()


_loop: asyncio.AbstractEventLoop
_start_loop()
os.register_at_fork(after_in_child=_start_loop)  # a thread does not come along


def _wait_for(coroutine: Any) -> Any:
    """What a coroutine returns in the loop; Ctrl-C cancels it."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


class Adapter:
    """An AsyncWorker with the methods of a Worker."""

    def __init__(self, worker: soma.AsyncWorker) -> None:
        self._worker = worker

    def __enter__(self) -> Adapter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._worker).replace("AsyncWorker", "Worker")

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._worker, name)
        if not inspect.iscoroutinefunction(member):
            return member
        return lambda *args, **kwargs: _wait_for(member(*args, **kwargs))

    @property
    def metas(self) -> Any:
        _wait_for(self._worker.list())
        return self._worker.metas

    @property
    def node_ids(self) -> list[str]:
        return list(self.metas)

    def interrupt(self) -> None:
        _loop.call_soon_threadsafe(self._worker.interrupt)

    def filter(self, node_id: str) -> RemoteFilter:
        return RemoteFilter.of(self, node_id, self.metas[node_id])

    def stream(self, *args: Any, **kwargs: Any) -> Any:
        outs = self._worker.stream(*args, **kwargs)
        return self._each(outs)

    def _each(self, outs: Any) -> Any:
        try:
            while True:
                try:
                    yield _wait_for(anext(outs))
                except StopAsyncIteration:
                    return
        finally:
            _wait_for(outs.aclose())


def connect(*args: Any, **kwargs: Any) -> Adapter:
    """As ``soma.connect``."""
    opening = soma.connect_async(*args, **kwargs)

    async def opened() -> soma.AsyncWorker:
        return await opening

    return Adapter(_wait_for(opened()))


def worker(transport: Transport, **options: Any) -> Adapter:
    """As ``Worker``."""
    return Adapter(
        _wait_for(soma.AsyncWorker.start(lambda: Handle(transport, WorkerOptions(**options))))
    )


def pytest_configure() -> None:
    """Every test of this run connects so, and the kit too."""
    soma.connect = connect
    for part in (base, deaths, probes):
        part.Worker = worker
