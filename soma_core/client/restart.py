"""Restart: starts another engine in a thread: the call that needs it may not have the time."""

from __future__ import annotations

import threading
from collections.abc import Callable

from soma_core.channel.deadline import Deadline

_SLICE = 0.2  # seconds of one wait: a Ctrl-C that comes just before it begins ends the next one


class Restart:
    """The start of another engine, which goes on whoever waits for it.

    Args:
        start: Starts it.

    Attributes:
        is_over: Whether it has started, or failed.
    """

    def __init__(self, start: Callable[[], None]) -> None:
        self._start = start
        self._changed = threading.Condition()  # whose lock a signal handler may take once more
        self._thread = threading.Thread(target=self._run, name="soma-restart", daemon=True)
        self._runs_on: int | None = None
        self._error: BaseException | None = None
        self.is_over = False

    def begin(self) -> None:
        """Begin with it; where no thread can be started, this one does it."""
        try:
            self._thread.start()
        except RuntimeError:
            self._run()
        except BaseException:  # Ctrl-C: if the thread has not begun by now, it will do nothing
            with self._changed:
                self.is_over = self._runs_on is None
            raise

    def wait(self, deadline: Deadline) -> bool:
        """Wait until it is over; False if it is not by the deadline.

        Raises:
            RuntimeError: This is the thread of the start.
        """
        with self._changed:
            if self._runs_on == threading.get_ident() and not self.is_over:
                raise RuntimeError(
                    "a restart of this worker is under way on this thread, and a plugin that it "
                    "calls asks for a call of the worker; it would wait for itself"
                )
            while not self.is_over and not deadline.over():
                self._changed.wait(deadline.within(_SLICE).left())
            return self.is_over

    def raise_error_once(self) -> None:
        """Raise why it failed, if it did and nobody was told before: others may try again."""
        with self._changed:
            error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # which leads to this frame

    def _run(self) -> None:
        with self._changed:
            if self.is_over:
                return
            self._runs_on = threading.get_ident()
        try:
            self._start()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self.is_over = True
                self._changed.notify_all()
