"""Short threads: what blocks and happens once in the life of a worker, awaited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def running_loop() -> asyncio.AbstractEventLoop:
    """The event loop that runs.

    Raises:
        RuntimeError: There is none of asyncio.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "no event loop of asyncio runs here, which this needs; under trio call a soma.Worker "
            "in a thread, by trio.to_thread.run_sync"
        ) from None


async def in_thread(
    function: Callable[[], T], undo: Callable[[T], object] | None = None, *, name: str
) -> T:
    """Run a function in a thread of its own, which ends with it.

    Not in an executor of the loop: its threads would stay. Where no thread can be started, the
    loop does it, and waits.

    Args:
        function: The function. It goes on if the caller is cancelled.
        undo: Called with the result in a thread, if the caller was cancelled meanwhile.
    """
    loop = running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def hand_over(result: T) -> None:
        if not future.done():
            future.set_result(result)
        elif undo is not None:
            threading.Thread(target=undo, args=[result], name=name, daemon=True).start()

    def fail(error: BaseException) -> None:
        if not future.done():
            future.set_exception(error)

    def run() -> None:
        try:
            result = function()
        except BaseException as error:
            _tell(loop, fail, error)
        else:
            if not _tell(loop, hand_over, result) and undo is not None:
                undo(result)

    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # this process can start no more threads
        return function()
    try:
        return await future
    finally:
        if future.done() and not future.cancelled():
            thread.join()  # it has nothing left to do


def _tell(loop: asyncio.AbstractEventLoop, function: Callable[[T], object], argument: T) -> bool:
    """Call a function in the loop; False if the loop is closed."""
    try:
        loop.call_soon_threadsafe(function, argument)
    except RuntimeError:
        return False
    return True
