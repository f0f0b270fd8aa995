"""What clients that left keep open in the daemon: of each user so much, the oldest goes first."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class _Thing(NamedTuple):
    is_open: Callable[[], bool]
    close: Callable[[], None]


class LeftOpen:
    """Control sockets, and pipes of which somebody still holds the end to write.

    Only their users decide when these are closed, and no limit on clients counts them.

    Args:
        most: How many of one user.
    """

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._of: dict[int, list[_Thing]] = {}

    def add(self, uid: int, is_open: Callable[[], bool], close: Callable[[], None]) -> None:
        """Keep a thing of a user's open; close the oldest if there are too many."""
        still_open = [thing for thing in self._of.get(uid, ()) if thing.is_open()]
        still_open.append(_Thing(is_open, close))
        for thing in still_open[: -self._most]:
            thing.close()
        self._of[uid] = still_open[-self._most :]
