"""Backlog: what need not be done within a call, and is done while the host has nothing to do."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import sleep
from typing import Any

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
        self._awake = False  # what the event says, at a fifth of its price
        self._thread: threading.Thread | None = None
        self._added = 0

    def add(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have a function called soon; at once, if too many wait."""
        self._added += 1
        self._entries.append((function, arguments))
        if not self._awake:
            self._wake()
        elif len(self._entries) > _MOST:
            self.flush()

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
            self._awake = True
            self._some.set()

    def _run(self) -> None:
        while True:
            self._some.wait()
            seen = None
            while seen != self._added:
                seen = self._added
                sleep(_QUIET)
            self._some.clear()
            self._awake = False
            self.flush()
