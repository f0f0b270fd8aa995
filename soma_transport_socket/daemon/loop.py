"""The event loop of the daemon: waits for sockets, and calls the function that attends to each."""

from __future__ import annotations

import logging
import math
import select
import socket
from collections.abc import Callable

from soma_core.transport import Deadline

_log = logging.getLogger("soma.daemon")


class Loop:
    """Watches sockets on one thread.

    It is built on ``poll``, not on :mod:`selectors`: nothing there watches for a hang-up alone,
    and what a client sends is for its worker to read.
    """

    def __init__(self) -> None:
        self._poller = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}

    def on_readable(self, source: socket.socket, handler: Callable[[], None]) -> None:
        """Call a function whenever there is something to read, or the end of it."""
        self._add(source, select.POLLIN, handler)

    def on_hangup(self, source: socket.socket, handler: Callable[[], None]) -> None:
        """Call a function when the other end is closed, whatever there is to read."""
        self._add(source, 0, handler)

    def _add(self, source: socket.socket, events: int, handler: Callable[[], None]) -> None:
        self._handlers[source.fileno()] = handler
        self._poller.register(source, events)

    def remove(self, source: socket.socket) -> None:
        """Watch it no more; one that is not watched is left alone."""
        self._drop(source.fileno())

    def wait(self, deadline: Deadline) -> None:
        """Wait until something happens, or until the deadline; attend to all that happened."""
        left = deadline.left()
        milliseconds = None if left is None else math.ceil(left * 1000)
        for fd, _ in self._poller.poll(milliseconds):
            handler = self._handlers.get(fd)  # none, if one that was called before removed it
            if handler is not None and not self.attend(handler):
                self._drop(fd)

    def attend(self, handler: Callable[[], None]) -> bool:
        """Call a function; what goes wrong with one connection is no other client's business.

        Returns:
            Whether it raised nothing; what it raised is logged.
        """
        try:
            handler()
        except Exception:
            _log.exception("a connection could not be attended to, and is dropped")
            return False
        return True

    def _drop(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._poller.unregister(fd)
