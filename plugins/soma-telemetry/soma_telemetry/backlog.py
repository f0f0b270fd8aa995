"""Backlog: what need not be done within a call, and is done while the host has nothing to do."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

__all__ = ["Backlog"]

_log = logging.getLogger("soma.telemetry")
_QUIET = 0.05  # seconds without another entry, after which the thread does what is left
_MOST = 1024  # entries; then who adds one does them


class Backlog:
    """Functions to call soon, in order.

    Ending a span and recording metrics cost some 50 us, which no call has to wait for. Whoever
    waits for something else flushes it; a thread does what is left once nobody adds anything, and
    sleeps while there is nothing.
    """

    def __init__(self) -> None:
        self._entries: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._doing = threading.RLock()  # a signal handler may make calls too
        self._starting = threading.Lock()
        self._some = threading.Event()
        self._thread: threading.Thread | None = None
        self._last = 0.0

    def add(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have a function called soon; at once, if too many wait."""
        self._last = monotonic()
        self._entries.append((function, arguments))
        if len(self._entries) > _MOST:
            self.flush()
        elif not self._some.is_set():
            self._wake()

    def flush(self) -> None:
        """Call all that wait, and return once that is done."""
        while self._entries:
            with self._doing:
                self._do_one()

    def _do_one(self) -> None:
        if self._entries:
            function, arguments = self._entries.popleft()
            try:
                function(*arguments)
            except Exception:
                _log.exception("a call could not be recorded")

    def _wake(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():  # none survives a fork
                self._thread = threading.Thread(
                    target=self._run, name="soma-telemetry", daemon=True
                )
                self._thread.start()
            self._some.set()

    def _run(self) -> None:
        while True:
            self._some.wait()
            while (quiet := monotonic() - self._last) < _QUIET:
                sleep(_QUIET - quiet)
            self._some.clear()
            self.flush()
