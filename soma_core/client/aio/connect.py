"""connect_async: starts or reaches a worker for an event loop, and loads filters into it."""

from __future__ import annotations

from typing import Any

from soma_core.client.aio.opening import Opening
from soma_core.client.aio.worker import AsyncWorker
from soma_core.client.connect import Start, connect, prepared
from soma_core.client.handle import Handle
from soma_core.client.signatures import takes_arguments_of

__all__ = ["connect_async"]


@takes_arguments_of(connect)
def connect_async(*arguments: Any, **options: Any) -> Opening[AsyncWorker]:
    """Start or reach a worker for the event loop that runs, and load filters into it.

    ``async with soma.connect_async(…) as worker:`` closes it at the end of the block;
    ``worker = await soma.connect_async(…)`` leaves that to you (``await worker.close()``). The
    arguments and errors are those of :func:`soma_core.connect`. A thread starts the worker, and
    ends then.

    Raises:
        PluginError, TypeError, ValueError: At once, as :func:`soma_core.connect`.
        SomaError: When it is awaited, as :func:`soma_core.connect`.
    """
    start = prepared(*arguments, **options)
    return Opening(lambda: _open(start))


async def _open(start: Start) -> AsyncWorker:
    worker = await AsyncWorker.start(lambda: Handle(start.transport, start.options))
    try:
        if start.filters:
            await worker.load(start.filters, timeout=start.options.start_timeout)
    except BaseException:
        await worker.close()
        raise
    return worker
