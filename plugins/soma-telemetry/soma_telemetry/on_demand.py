"""The plugin as it is installed: OpenTelemetry is imported only where it is of use.

A host whose program never imported OpenTelemetry has no pipeline, and a worker measures once a
command brings a trace context along.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import soma_core as soma
from soma_telemetry.measuring import API, measured

if TYPE_CHECKING:
    from soma_telemetry.plugin import Telemetry


class OnDemand:
    """Hands each hook on to a :class:`~soma_telemetry.plugin.Telemetry`, once there is a use."""

    def __init__(self) -> None:
        self._made: Telemetry | None = None

    def _telemetry(self) -> Telemetry:
        if self._made is None:
            from soma_telemetry.plugin import Telemetry

            self._made = Telemetry()
            atexit.register(self._made.flush)  # before the pipeline, which is older, ends
        return self._made

    @soma.hookimpl
    def soma_call_starting(self, call: Any) -> None:
        """In the host."""
        if self._made is not None or API in sys.modules:
            self._telemetry().soma_call_starting(call)

    @soma.hookimpl
    def soma_call_sent(self, call: Any) -> None:
        """In the host."""
        if self._made is not None:
            self._made.soma_call_sent(call)

    @soma.hookimpl
    def soma_call_finished(self, call: Any, reply: Any, error: BaseException | None) -> None:
        """In the host."""
        if self._made is not None:
            self._made.soma_call_finished(call, reply, error)

    @soma.hookimpl
    def soma_worker_started(self, transport: str) -> None:
        """In the host."""
        if self._made is not None:
            self._made.soma_worker_started(transport)

    @soma.hookimpl
    def soma_worker_exited(self, transport: str, pid: int, status: Any) -> None:
        """In the host."""
        if self._made is not None:
            self._made.soma_worker_exited(transport, pid, status)

    @soma.hookimpl(wrapper=True)
    def soma_execute(self, command: Any) -> Generator[None, Any, Any]:
        """In the worker."""
        return (yield from measured(command))
