"""Ctrl-C during a call: kept until the call can be given up without losing the worker."""

from __future__ import annotations

import signal
import sys
from _signal import getsignal as _handler_of  # type: ignore[import-not-found]
from _signal import signal as _set_handler
from types import FrameType
from typing import Any

# Those of ``_signal`` do without conversions to and from enums, which cost ten times as much.
_SIGINT = int(signal.SIGINT)


class CtrlC:
    """Calls the program's handler of SIGINT during a call only where that is safe.

    Python may raise KeyboardInterrupt between any two steps: while a message is half sent, or when
    it has been received and nobody has looked at it yet. The worker would be lost each time. So
    from :meth:`install` to :meth:`restore` a signal is kept until :meth:`check` is called; a
    second one, while the first is kept, is not. One that was not installed does nothing.

    Attributes:
        installed: Whether it is, which a program's handler must allow.
        at_once: Whether a signal is not to be kept now.
        kept: Whether one is.
    """

    installed = at_once = kept = False
    _handler: Any = None

    def install(self) -> None:
        """Begin; only on the main thread, where signals arrive."""
        handler = _handler_of(_SIGINT)
        if callable(handler):
            self._handler, self.installed = handler, True
            _set_handler(_SIGINT, self._keep)

    def restore(self) -> None:
        """End; a signal that is still kept takes effect."""
        self.installed = False  # what comes in this moment is kept too
        _set_handler(_SIGINT, self._handler)
        if self.kept:
            self.check()

    def check(self) -> None:
        """Call the program's handler now, if a signal is kept.

        Raises:
            KeyboardInterrupt: The handler is Python's own.
        """
        if self.kept:
            self.kept = False
            self._handler(_SIGINT, sys._getframe())

    def _keep(self, signum: int, frame: FrameType | None) -> None:
        if self.installed and (self.at_once or self.kept):
            self.kept = False
            self._handler(signum, frame)
        else:
            self.kept = True
