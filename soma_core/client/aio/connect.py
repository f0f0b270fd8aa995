"""connect_async: starts or reaches a worker for an event loop, and loads filters into it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NoReturn

from soma_core.client.aio.worker import AsyncWorker
from soma_core.client.connect import Start, connect, prepared
from soma_core.client.handle import Handle
from soma_core.client.signatures import takes_arguments_of


class Opening:
    """What ``soma.connect_async`` returns: awaited it gives the worker, which you close.

    With ``async with`` the worker is closed at the end of the block.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self._started = False
        self._opened: AsyncWorker | None = None

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"soma.connect_async(…) has no {name} yet: use it as `async with soma.connect_async(…) "
            "as worker:`, or await it"
        )

    def __enter__(self) -> NoReturn:
        raise TypeError(
            "soma.connect_async(…) is used by `async with`; `with` takes soma.connect(…)"
        )

    def __exit__(self, *error: object) -> None:
        """There is nothing to leave."""

    def __await__(self) -> Generator[Any, Any, AsyncWorker]:
        if self._started:
            raise RuntimeError("this was awaited already; call soma.connect_async again")
        self._started = True
        return _open(self._start).__await__()

    async def __aenter__(self) -> AsyncWorker:
        self._opened = await self
        return self._opened

    async def __aexit__(self, *error: object) -> None:
        if self._opened is not None:
            await self._opened.close()


@takes_arguments_of(connect)
def connect_async(*arguments: Any, **options: Any) -> Opening:
    """Start or reach a worker for the event loop that runs, and load filters into it.

    ``async with soma.connect_async(…) as worker:`` closes it at the end of the block;
    ``worker = await soma.connect_async(…)`` leaves that to you (``await worker.close()``). The
    arguments and errors are those of :func:`soma_core.connect`. A thread starts the worker, and
    ends then.

    Raises:
        PluginError, TypeError, ValueError: At once, as :func:`soma_core.connect`.
        SomaError: When it is awaited, as :func:`soma_core.connect`.
    """
    return Opening(prepared(*arguments, **options))


async def _open(start: Start) -> AsyncWorker:
    worker = await AsyncWorker.start(lambda: Handle(start.transport, start.options))
    try:
        if start.filters:
            await worker.load(start.filters, timeout=start.options.start_timeout)
    except BaseException:
        await worker.close()
        raise
    return worker
