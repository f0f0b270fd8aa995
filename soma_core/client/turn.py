"""Turn: a lock whose holder cannot ask for it again, and would wait for itself."""

from __future__ import annotations

import threading
from contextlib import suppress


class TurnLock:
    """A lock that refuses the thread that has it: a signal handler or a callback asks there.

    Args:
        what: What the holder does, for the refusal: ``a call of this worker``.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        # Not a plain one: a signal may come when the lock is taken and its holder not yet noted.
        # Nothing has begun then, and the handler may go first.
        self._lock = threading.RLock()
        self._holder: int | None = None

    def take(self, timeout: float = -1) -> bool:
        """Take it.

        Args:
            timeout: Seconds to wait for it; 0 not to wait, -1 to wait for ever.

        Returns:
            Whether it was to be had in time.

        Raises:
            RuntimeError: This thread has it.
        """
        me = threading.get_ident()
        if self._holder == me:
            raise RuntimeError(
                f"{self._what} is under way on this thread, which was asked for another from a "
                "callback or a signal handler; it would wait for itself. Ask from another thread, "
                "or afterwards"
            )
        try:
            if not self._lock.acquire(timeout != 0, timeout or -1):
                return False
            self._holder = me
            return True
        except BaseException:  # Ctrl-C, perhaps just after it was had
            if self._holder == me:
                self._holder = None
            with suppress(RuntimeError):  # it was not had yet
                self._lock.release()
            raise

    def give(self) -> None:
        """Give it back."""
        self._holder = None
        self._lock.release()

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *error: object) -> None:
        self.give()
