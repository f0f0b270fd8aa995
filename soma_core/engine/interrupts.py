"""Interrupts: SIGINT, or a message of the host, ends the command that runs, and nothing else."""

from __future__ import annotations

import signal
import sys
import threading
from _signal import signal as _set_handler  # type: ignore[import-not-found]
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from soma_core.engine.inbox import Inbox
from soma_core.protocol.commands import MessageId

T = TypeVar("T")
C = TypeVar("C")

# ``_set_handler`` is ``signal.signal`` without its conversions to and from enums, which would
# cost ten times as much as the rest of it, once per command.

_SIGINT = int(signal.SIGINT)
_SIGIO = int(signal.SIGIO)

_IMPORTING = frozenset({"<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>"})
"""The files, as their code says, of the functions that import."""


class NoInterrupts:
    """For an engine that shares its process with others: signals are not its business.

    Attributes:
        by_wire: Whether a message can interrupt the command that runs.
    """

    by_wire = False

    def watch(self, inbox: Inbox) -> None:
        """From now on the host of an inbox interrupts by messages, if that is possible."""

    def run(self, execute: Callable[[C], T], command: C) -> T:
        """Execute a command."""
        return execute(command)

    def shield(self, call: Callable[[], None]) -> None:
        """Run, within a command, what must not be cut in two."""
        call()

    def abort(self, command: object) -> None:
        """From any thread: end a command, if it still runs."""


class Interrupts(NoInterrupts):
    """For a process that serves one engine on its main thread.

    The handler looks at what it interrupted: it raises only inside of a command, and not inside
    of what is shielded, nor of an import: a package that was imported by half can neither be used
    nor imported again. The host asks again until the reply comes. So there is no flag to set at
    the right moment, and no moment to miss.

    Args:
        by_wire: Whether it can watch where messages come from.

    Attributes:
        inbox: That of the host whose command is executed next, if it interrupts by messages.
        running: The id of its command.
    """

    def __init__(self, *, by_wire: bool = False) -> None:
        self._on_main_thread = threading.current_thread() is threading.main_thread()
        self._missed = False
        self._handler = self._handle
        self._executes = False
        self._command: object = None
        self._to_abort: object = None
        self.by_wire = by_wire and self._on_main_thread
        self.inbox: Inbox | None = None
        self.running: MessageId | None = None

    def arm(self) -> None:
        """Install the handler; outside of a command it ignores the signal."""
        if self._on_main_thread:
            _set_handler(_SIGINT, self._handler)

    def disarm(self) -> None:
        """No command is executed any more: what comes still is no reason to wake up."""
        if self.inbox is not None:
            signal.signal(signal.SIGIO, signal.SIG_IGN)

    def watch(self, inbox: Inbox) -> None:
        """From now on the host of an inbox interrupts by messages, if that is possible."""
        if self.by_wire:
            _set_handler(_SIGIO, self._look)
            inbox.announce()
            self.inbox = inbox

    def run(self, execute: Callable[[C], T], command: C) -> T:
        """Execute a command, which SIGINT ends by a KeyboardInterrupt."""
        self._missed = False
        if self._on_main_thread:  # again each time: a filter may have set a handler of its own
            _set_handler(_SIGINT, self._handler)
        self._command = command
        try:
            if self.inbox is None:
                return _interruptible(execute, command)
            return self._run_watched(execute, command)
        finally:
            self._command = None  # it holds data of the host's

    def _run_watched(self, execute: Callable[[C], T], command: Any) -> T:
        def look_first(command: C) -> T:  # it may have come together with the command
            self._look(_SIGIO, sys._getframe())
            return execute(command)

        self.running, self._executes = command.id, True
        try:
            return _interruptible(look_first, command)
        finally:
            self._executes = False
            _set_handler(_SIGIO, self._look)  # a filter may have set a handler of its own

    def _look(self, signum: int, frame: FrameType | None) -> None:
        """Something came on the wire: look whether it interrupts the command that runs."""
        if self._executes and self.inbox is not None:
            _shielded(self.inbox.look)
            if self._missed or self.inbox.names(self.running):
                self._missed = False
                self._end(frame)

    def shield(self, call: Callable[[], None]) -> None:
        """Run what must not be cut in two; an interrupt that comes meanwhile is raised after."""
        _shielded(call)
        if self._missed:
            self._missed = False
            raise KeyboardInterrupt("the host interrupted the command")

    def abort(self, command: object) -> None:
        """From any thread: end a command, if it still runs."""
        self._to_abort = command
        if self._on_main_thread:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _is_aborted(self) -> bool:
        """Whether the command that runs is to be aborted."""
        to_abort, self._to_abort = self._to_abort, None
        return to_abort is not None and to_abort is self._command

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._to_abort is None or self._is_aborted():  # else it is over
            self._end(frame)

    def _end(self, frame: FrameType | None) -> None:
        """End the command that runs, if its code was interrupted."""
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
