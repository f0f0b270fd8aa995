"""Levels of this program's loggers: its workers are told of them, and of each change.

Python forgets what it has found out of levels whenever one of them is set. So a change costs a look
at all loggers, and a call without one costs a look at whether a mark is still there.
"""

from __future__ import annotations

import logging

from soma_core.protocol.loggers import MOST_LOGGERS

MARK = "soma"


class LogLevels:
    """The levels of the loggers of this process.

    Attributes:
        found_out: Where logging keeps what it has found out; without :data:`MARK` once a level has
            been set.
        latest: The levels by logger, ``""`` being the root; another object whenever one changed.
    """

    def __init__(self) -> None:
        self.found_out = getattr(logging.root, "_cache", {})
        self.latest: dict[str, int] = {}

    def look(self) -> dict[str, int]:
        """The levels as they are now."""
        if MARK not in self.found_out:
            self.found_out[MARK] = True  # before the look: a change while that lasts is one more
            levels = _levels()
            if levels != self.latest:
                self.latest = levels
        return self.latest


def _levels() -> dict[str, int]:
    """That of the root, and those of loggers that make records below it."""
    least = logging.root.level
    levels = {"": least}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and 0 < logger.level < least:
            if len(levels) == MOST_LOGGERS:
                break
            levels[name] = logger.level
    return levels


log_levels = LogLevels()  # there is one logging in a process
