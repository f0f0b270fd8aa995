"""Signalled: what a signal handler raised in the midst of a wait, told from what the wait raises.

A handler may raise anything, ``TimeoutError`` most often, which is also how a wait ends.
"""

from __future__ import annotations

from inspect import getargvalues
from types import FrameType, TracebackType


def raise_error_of_handler(error: BaseException) -> None:
    """Call it with an error before you swallow it, or make another of it.

    Args:
        error: The error, just caught.

    Raises:
        BaseException: What a signal handler raised, if that is the error, or its cause.
    """
    found = error_of_handler(error)
    if found is None:
        return
    context = found.__context__
    try:
        raise found
    finally:
        found.__context__ = context  # it may be the cause of what is being handled here
        del found, context, error  # or they and this frame would hold each other


def error_of_handler(error: BaseException) -> BaseException | None:
    """The error that a signal handler raised, if it is the one just caught, or its cause.

    Args:
        error: The error.
    """
    place = error.__traceback__
    if place is not None:
        place = place.tb_next  # who caught it did not raise it
    found: BaseException | None = error
    while found is not None:
        if _leads_to_a_handler(place):
            return found
        found = found.__cause__  # code in C makes a SystemError of an error that it overlooked
        place = None if found is None else found.__traceback__
    return None


def _leads_to_a_handler(place: TracebackType | None) -> bool:
    while place is not None:
        if _is_of_a_handler(place.tb_frame):
            return True
        place = place.tb_next
    return False


def _is_of_a_handler(frame: FrameType) -> bool:
    """Whether a signal called it: nothing else is given the frame below which it runs."""
    names, rest, _, values = getargvalues(frame)
    given = [values.get(name) for name in names]
    if rest is not None:
        given += values.get(rest, ())
    return frame.f_back is not None and any(value is frame.f_back for value in given)
