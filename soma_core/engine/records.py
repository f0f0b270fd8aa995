"""Records: what filters log and warn travels to the host whose command runs, as events.

Handlers that filters set up themselves go on working: a record that one of them writes to stdout or
stderr is shown as what it prints, and does not travel.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Literal, TextIO

import numpy as np

from soma_core.engine.inbox import Inbox
from soma_core.protocol.loggers import Loggers
from soma_core.raised import shortened
from soma_core.raised.stack import module_of

SendRecord = Callable[[Literal["log", "warning"], dict[str, Any]], None]

_DEEPEST = 4  # containers in a container
_MOST_ITEMS = 1000  # of one; what has more travels as a text, cut like any other
_FALLBACK = logging.Formatter(logging.BASIC_FORMAT)


class Host:
    """What a host has asked for since HELLO.

    Args:
        inbox: Where its messages come from; None if they cannot interrupt.

    Attributes:
        inbox: As given.
        log_level: The least level of the records that it takes; None for none of them.
    """

    def __init__(self, inbox: Inbox | None = None) -> None:
        self.inbox = inbox
        self.log_level: int | None = None


class RecordForwarder(logging.Handler):
    """Of a process that serves one engine: forwards records and warnings while a command runs.

    What is logged and warned between commands, by a child process, or for a host that takes no
    records goes to stderr, from WARNING on.

    Attributes:
        sending: Whoever sends an event holds it: the lock of a handler too, so that there is one
            lock only, and no order in which two of them could be taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self._owner = os.getpid()
        self._send: SendRecord | None = None
        self._warned = False
        self._level = logging.WARNING
        self._loggers = Loggers()
        self.sending: AbstractContextManager[object] = self.lock or threading.RLock()
        self._basic_config = logging.basicConfig
        self._show_warning = warnings.showwarning

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Forward within the block, in the whole process, if this is its main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        root = logging.getLogger()
        root.addHandler(self)
        self._basic_config, self._show_warning = logging.basicConfig, warnings.showwarning
        logging.basicConfig = self._configure
        warnings.showwarning = self._warn
        filters = warnings.filters[:]
        if not sys.warnoptions:
            warnings.filters[:] = [one for one in filters if one not in _IGNORED]  # type: ignore[index]
            _forget_what_was_warned()
        try:
            yield
        finally:
            warnings.filters[:] = filters  # type: ignore[index]
            root.removeHandler(self)
            logging.basicConfig = self._basic_config
            warnings.showwarning = self._show_warning

    def _configure(self, **options: Any) -> None:
        """``logging.basicConfig``, which does nothing where there is a handler already.

        Without options it is what ``logging.error`` calls, and this is the configuration.
        """
        if not options:
            return
        root = logging.getLogger()
        root.removeHandler(self)
        try:
            self._basic_config(**options)
        finally:
            root.addHandler(self)

    def note_level(self, host: Host, level: int | None) -> None:
        """Note which records a host takes, and have them made: the root logger decides that.

        Args:
            host: The host.
            level: The least level of its records; None for none of them.
        """
        host.log_level = level
        root = logging.getLogger()
        if level is not None and level < root.level:
            root.setLevel(level)

    def note_levels(self, host: Host, levels: dict[str, int]) -> None:
        """Note which records a host that takes some takes from now on, and have them made.

        Args:
            host: The host.
            levels: The least level by logger. It sorts out by itself what is of other loggers.
        """
        if host.log_level is None or not levels:
            return
        host.log_level = min(levels.values())
        for name, level in levels.items():
            logger = self._loggers.of(name)
            if level < logger.getEffectiveLevel():
                logger.setLevel(level)

    def begin(self, send: SendRecord, level: int) -> None:
        """Forward to the host whose command runs from now on.

        Args:
            send: Sends it an event.
            level: The least level of the records that it takes.
        """
        self._level = level
        self._send = send

    def end(self) -> None:
        """Forward no more: nothing is sent once this has returned."""
        with self.sending:
            self._send = None
        if self._warned:
            self._warned = False
            _forget_what_was_warned()

    def emit(self, record: logging.LogRecord) -> None:
        """Forward a record, called by :mod:`logging`."""
        if _is_printed(record):
            return
        if self._send is not None and record.levelno < self._level:
            return
        try:
            sent = self._sent("log", lambda: _fields_of(record))
            if not sent and record.levelno >= logging.WARNING:
                _print(_FALLBACK.format(record))
        except Exception:  # its arguments do not fit its message, say: its call goes on, as ever
            self.handleError(record)

    def _sent(self, event: Literal["log", "warning"], fields: Callable[[], dict[str, Any]]) -> bool:
        with self.sending:
            send = self._send
            if send is None or os.getpid() != self._owner:
                return False
            self._send = None  # what sending logs does not travel
            try:
                content = fields()
                with suppress(Exception):  # the host is gone or does not read: its reply shows it
                    send(event, content)
                    return True
            finally:
                self._send = send
            return False

    def _warn(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """``warnings.showwarning``."""

        def fields() -> dict[str, Any]:
            classes = [cls for cls in category.__mro__ if issubclass(cls, Warning)]
            return {
                "message": shortened(str(message)),
                "categories": [f"{cls.__module__}:{cls.__qualname__}" for cls in classes],
                "filename": filename,
                "lineno": lineno,
                "module": module_of(filename),
            }

        if file is None and self._sent("warning", fields):
            self._warned = True
        elif not _is_ignored(category, filename):
            self._show_warning(message, category, filename, lineno, file, line)


_IGNORED = [
    ("ignore", None, category, None, 0)
    for category in (DeprecationWarning, PendingDeprecationWarning)
]
"""Filters that Python begins with: what they ignore is sent, since the host may have others."""


def _is_ignored(category: type[Warning], filename: str) -> bool:
    """Whether Python would not show it by itself."""
    if issubclass(category, DeprecationWarning):
        return module_of(filename) != "__main__"
    return issubclass(category, PendingDeprecationWarning)


def _forget_what_was_warned() -> None:
    """Warn again of what was warned of before: whether it is shown again is up to the host."""
    warnings.simplefilter("default", append=True)  # which is what is done without any filter


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "level": record.levelno,
        "level_name": record.levelname,
        "message": shortened(record.getMessage()),
        "exc_text": _exception_text(record),
        "stack_info": record.stack_info,
        "pathname": record.pathname,
        "lineno": record.lineno,
        "function": record.funcName,
        "created": record.created,
        "thread": record.threadName,
        "process": record.process,
        "extra": {
            name: _plain(value) for name, value in vars(record).items() if name not in _ATTRIBUTES
        },
    }


_ATTRIBUTES = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})


def _plain(value: Any, depth: int = 0) -> Any:
    """What was given as ``extra=``, as plain data; anything else as its text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float):
        return value
    is_container = isinstance(value, dict | list | tuple)
    if not is_container or depth == _DEEPEST or len(value) > _MOST_ITEMS:
        return shortened(str(value))
    if isinstance(value, dict):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    return [_plain(item, depth + 1) for item in value]


def _exception_text(record: logging.LogRecord) -> str | None:
    if record.exc_info:
        return shortened(_FALLBACK.formatException(record.exc_info))
    return record.exc_text


def _is_printed(record: logging.LogRecord) -> bool:
    """Whether a handler of a filter's own writes it to stdout or stderr, which the host shows."""
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        for handler in logger.handlers:
            writes = isinstance(handler, logging.StreamHandler) and handler.stream in streams
            if writes and record.levelno >= handler.level:
                return True
        logger = logger.parent if logger.propagate else None
    return False


def _print(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"{text}\n")
