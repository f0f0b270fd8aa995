"""Where a worker's stdout and stderr go."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def flush() -> None:
    """Print what was kept so far."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # somebody closed or removed it
            stream.flush()


def print_to(descriptor: int) -> None:
    """Let what this process and its children print from now on go to a pipe."""
    flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


class Printing:
    """Of a session: to the client whose command ran last, else to the daemon."""

    def __init__(self) -> None:
        self._daemons = self._current = os.dup(2)

    def turn_to(self, pipe: int | None) -> None:
        """Print for a client from now on, in its pipe; None for one that has none."""
        wanted = self._daemons if pipe is None else pipe
        if wanted != self._current:
            print_to(wanted)
            self._current = wanted

    def forget(self, pipe: int) -> None:
        """Close the pipe of a client that has left."""
        if pipe == self._current:
            self.turn_to(None)
        os.close(pipe)
