"""Signalled: what a signal handler raised in the midst of a wait, told from what the wait raises.

A handler may raise anything, ``TimeoutError`` most often, which is also how a wait ends. What the
wait itself raises comes out of the call that was made; what a handler raises, from further down.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from inspect import getattr_static
from traceback import walk_tb
from types import CodeType
from typing import NoReturn

__all__ = ["NothingCame", "Signalled", "came_from_below", "error_of_handler"]


class NothingCame(TimeoutError):
    """Nothing came in time: raised by a channel of ours, and by no signal handler."""


class Signalled(BaseException):
    """Carries what a handler raised past all who would take it for the end of a wait or a channel.

    Whoever asked for the wait raises the error itself. A :class:`ByteStream` raises it for an error
    of a handler where it can tell: such an error is no end of a wait, and no failure of the stream.

    Args:
        error: What the handler raised.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error
        self._context = error.__context__

    def raise_error(self) -> NoReturn:
        """Raise what the handler raised, as if nothing had carried it."""
        error = self.error
        try:
            raise error
        finally:
            error.__context__ = self._context  # or they, and all that led here, hold each other
            del error, self


def error_of_handler(error: BaseException) -> BaseException | None:
    """The error that a handler of a signal raised, if it is the one just caught, or its cause.

    For waits in a library, whose own errors come from any depth.

    Args:
        error: The error.
    """
    codes = set(_codes_of_handlers())
    found: BaseException | None = error
    while found is not None:
        if any(frame.f_code in codes for frame, _ in walk_tb(found.__traceback__)):
            return found
        found = found.__cause__  # code in C makes a SystemError of an error that it overlooked
    return None


def _codes_of_handlers() -> Iterator[CodeType]:
    """The code of each function of this program that a signal calls."""
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        function = getattr(handler, "func", handler)  # of a partial
        for called in (function, getattr_static(type(function), "__call__", None)):
            code = getattr(called, "__code__", None)
            if isinstance(code, CodeType):
                yield code


def came_from_below(error: BaseException, calls: int = 0) -> bool:
    """Whether an error that was just caught was raised further down than expected.

    Args:
        error: The error.
        calls: How many functions in Python lie between who caught it and who is expected to raise.
    """
    place = error.__traceback__
    for _ in range(calls):
        place = None if place is None else place.tb_next
    return place is not None and place.tb_next is not None
