"""The worker's part: how long a command took, for the host to record, and whose it is meanwhile.

OpenTelemetry is used if a filter has imported it; where filters trace nothing, a worker needs none.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

API = "opentelemetry.trace"
"""The module that whoever traces has imported."""

META = "telemetry"
"""Where the reply says what was measured."""

_CONTEXT = "traceparent"
_LOOK = 1.0  # seconds


class _Memory:
    """What this process has in memory, looked at once a second at most."""

    def __init__(self) -> None:
        self._due = 0.0

    def now(self) -> int | None:
        """Bytes; None if they were said a moment ago, or are not known here."""
        if time.monotonic() < self._due:
            return None
        self._due = time.monotonic() + _LOOK
        try:
            with open("/proc/self/statm", "rb") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            return None


_memory = _Memory()


def measured(command: Any) -> Generator[None, Any, Any]:
    """Measure a command that brings a trace context along, within that context.

    What is measured goes into the ``meta`` of the reply, or of the error.
    """
    meta = command.meta
    if meta is None or _CONTEXT not in meta:
        return (yield)
    with _within(meta):
        begun, started = time.time_ns(), time.perf_counter()
        try:
            reply = yield
        except BaseException as error:
            _say(error, begun, time.perf_counter() - started)
            raise
        seconds = time.perf_counter() - started
    _say(reply, begun, seconds)
    return reply


def _say(outcome: Any, begun: int, seconds: float) -> None:
    """Note what was measured at a reply, or at an error."""
    worked = {"begun": begun, "seconds": seconds, "pid": os.getpid()}
    if (memory := _memory.now()) is not None:
        worked["memory"] = memory
    outcome.meta = {**(getattr(outcome, "meta", None) or {}), META: worked}


def _within(meta: Mapping[str, Any]) -> AbstractContextManager[None]:
    """What makes the host's span that of whatever a filter traces."""
    if API not in sys.modules:
        return nullcontext()
    from soma_telemetry.tracing import within

    return within(meta)
