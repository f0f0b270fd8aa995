"""Waiting threads: whether another thread waits for this one, which is about to wait for it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import suppress
from itertools import takewhile
from types import CodeType, FrameType
from typing import Any


def waits_for_this_thread(ident: int | None, owner: object) -> bool:
    """Whether a thread, in a call of an object, waits for this one or for a future of this one.

    Seen in what the other thread runs: what waits by other means is not found. An event loop that
    it runs waits for the futures that lead into it.
    """
    frames, waits = sys._current_frames(), _waits()
    within = takewhile(
        lambda frame: frame.f_locals.get("self") is not owner, _outwards(frames.get(ident or 0))
    )
    awaited = [frame for frame in within if frame.f_code in waits]
    if not awaited:
        return False
    done_here = set(map(id, _done_here(frames[threading.get_ident()])))
    return any(id(item) in done_here for frame in awaited for item in _waited_for(frame, waits))


_WAITS = {
    function.__code__: name
    for function, name in (
        (threading.Thread.join, "self"),
        (futures.Future.result, "self"),
        (futures.Future.exception, "self"),
        (futures.wait, "fs"),
        (futures.as_completed, "fs"),
    )
}
"""The functions that wait, and the variable of each that holds what it waits for."""


def _waits() -> dict[CodeType, str]:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:  # what nobody has imported, nobody runs
        return _WAITS
    loops = (asyncio.Runner.run, asyncio.BaseEventLoop.run_forever)
    return _WAITS | {function.__code__: "self" for function in loops}


def _waited_for(frame: FrameType, waits: dict[CodeType, str]) -> Iterator[Any]:
    held = frame.f_locals.get(waits[frame.f_code])
    yield from held if isinstance(held, (set, frozenset, list, tuple)) else (held,)
    yield getattr(held, "_loop", None)  # of a Runner


def _done_here(frame: FrameType) -> Iterator[Any]:
    """This thread, the futures that it works on, and the event loops that wait for them."""
    yield threading.current_thread()
    for outer in _outwards(frame):
        for held in outer.f_locals.values():
            future = getattr(held, "__dict__", {}).get("future", held)
            if isinstance(future, futures.Future):
                yield future
                yield from _told_by(future)
            elif hasattr(type(future), "_asyncio_future_blocking"):  # threads of anyio have these
                yield future.get_loop()


def _told_by(future: Any) -> Iterator[Any]:
    """What the callbacks of a future know: those of asyncio, the loop that they tell."""
    for callback in tuple(future._done_callbacks):
        for cell in getattr(callback, "__closure__", None) or ():
            with suppress(ValueError):  # it is empty
                yield cell.cell_contents


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
