"""Waiting threads: whether another thread waits for this one, which is about to wait for it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from types import FrameType
from typing import Any

__all__ = ["waits_for_this_thread"]


def waits_for_this_thread(ident: int | None) -> bool:
    """Whether a thread waits for this one to end, or for a future that this one works on.

    Seen in what the other thread runs: what waits by other means is not found.

    Args:
        ident: Of the other thread.
    """
    frames = sys._current_frames()
    awaited = [frame for frame in _outwards(frames.get(ident or 0)) if frame.f_code in _WAITS]
    if not awaited:
        return False
    done_here = {id(threading.current_thread())}
    for frame in _outwards(frames[threading.get_ident()]):
        held = frame.f_locals.values()
        done_here.update(id(getattr(item, "future", None)) for item in held)
    return any(id(item) in done_here for frame in awaited for item in _waited_for(frame))


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


def _waited_for(frame: FrameType) -> Iterator[Any]:
    held = frame.f_locals.get(_WAITS[frame.f_code])
    yield from held if isinstance(held, (set, frozenset, list, tuple)) else (held,)


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
