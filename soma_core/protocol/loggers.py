"""Loggers by names that came over the wire: so many at most, since each stays for ever."""

from __future__ import annotations

import logging

MOST_LOGGERS = 1000
_LONGEST_NAME = 200  # characters of the name of a logger that is made


class Loggers:
    """The loggers that the other side names.

    Args:
        most: How many it may add to this process.
    """

    def __init__(self, most: int = MOST_LOGGERS) -> None:
        self._most = most
        self._made = 0

    def of(self, name: str) -> logging.Logger:
        """The logger of a name; where ever more are named, the nearest one that there is.

        Each dot of a name may make one more.
        """
        known = logging.root.manager.loggerDict
        if name not in known:
            parts = name.count(".") + 1
            if len(name) > _LONGEST_NAME or self._made + parts > self._most:
                while name and not isinstance(known.get(name), logging.Logger):
                    name = name.rpartition(".")[0]
            else:
                self._made += parts
        return logging.getLogger(name)
