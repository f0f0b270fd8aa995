"""Interrupts: SIGINT ends the command that runs, and nothing else."""

from __future__ import annotations

import signal
import threading
from _signal import signal as _set_handler  # type: ignore[import-not-found]
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

__all__ = ["Interrupts", "NoInterrupts"]

T = TypeVar("T")
C = TypeVar("C")

# ``_set_handler`` is ``signal.signal`` without its conversions to and from enums, which would
# cost ten times as much as the rest of it, once per command.

_SIGINT = int(signal.SIGINT)

_IMPORTING = frozenset({"<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>"})
"""The files, as their code says, of the functions that import."""


class NoInterrupts:
    """For an engine that shares its process with others: signals are not its business."""

    def run(self, execute: Callable[[C], T], command: C) -> T:
        """Execute a command."""
        return execute(command)

    def shield(self, call: Callable[[], None]) -> None:
        """Run, within a command, what must not be cut in two."""
        call()


class Interrupts(NoInterrupts):
    """For a process that serves one engine on its main thread.

    The handler looks at what it interrupted: it raises only inside of a command, and not inside
    of what is shielded, nor of an import: a package that was imported by half can neither be used
    nor imported again. The host asks again until the reply comes. So there is no flag to set at
    the right moment, and no moment to miss.
    """

    def __init__(self) -> None:
        self._on_main_thread = threading.current_thread() is threading.main_thread()
        self._missed = False
        self._handler = self._handle

    def arm(self) -> None:
        """Install the handler; outside of a command it ignores the signal."""
        if self._on_main_thread:
            _set_handler(_SIGINT, self._handler)

    def run(self, execute: Callable[[C], T], command: C) -> T:
        """Execute a command, which SIGINT ends by a KeyboardInterrupt."""
        self._missed = False
        if self._on_main_thread:  # again each time: a filter may have set a handler of its own
            _set_handler(_SIGINT, self._handler)
        return _interruptible(execute, command)

    def shield(self, call: Callable[[], None]) -> None:
        """Run what must not be cut in two; an interrupt that comes meanwhile is raised after."""
        _shielded(call)
        if self._missed:
            self._missed = False
            raise KeyboardInterrupt("the host interrupted the command")

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code is _shielded.__code__:
                self._missed = True
                return
            if frame.f_code.co_filename in _IMPORTING:
                return
            if frame.f_code is _interruptible.__code__:
                raise KeyboardInterrupt("the host interrupted the command")
            frame = frame.f_back


def _interruptible(execute: Callable[[C], T], command: C) -> T:
    return execute(command)


def _shielded(call: Callable[[], None]) -> None:
    call()
