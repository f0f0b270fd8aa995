"""Signalled: what a signal handler raised in the midst of a wait, told from what the wait raises.

A handler may raise anything, ``TimeoutError`` most often, which is also how a wait ends. What the
wait itself raises comes out of the call that was made; what a handler raises, from further down.
"""

from __future__ import annotations

from typing import NoReturn

__all__ = ["NothingCame", "Signalled", "came_from_below"]


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
