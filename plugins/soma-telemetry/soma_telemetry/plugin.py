"""The plugin: what it does at the start and end of a call, in the host and in the worker.

The worker measures, and the host records: spans and metrics of both are exported by the host's own
pipeline, so that a worker needs none, wherever it runs. Where the host has no pipeline, nothing is
sent along and nothing is measured.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry import metrics, trace
from opentelemetry.trace import Span, SpanKind, StatusCode

import soma_core as soma
from soma_telemetry.measuring import META, measured
from soma_telemetry.tracing import carried

__all__ = ["Telemetry"]

_SCOPE = "soma"
_NS = 1_000_000_000
_A_WAIT = 0.001  # seconds: what is less is no waiting for others


@dataclass(frozen=True)
class _Flight:
    """A call that is under way.

    Attributes:
        span: Its span.
        sent: When it was sent (``time.perf_counter``).
    """

    span: Span
    sent: float


class Telemetry:
    """Spans and metrics of calls.

    Args:
        tracers: Where spans go; None for the provider of this process, as it is at each call.
        meters: Where metrics go; None likewise, as it is at the first call.
    """

    def __init__(
        self,
        tracers: trace.TracerProvider | None = None,
        meters: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracers)
        meter = metrics.get_meter(_SCOPE, meter_provider=meters)
        self._calls = meter.create_histogram(
            "rpc.client.call.duration", "s", "Seconds from the sending of a command to its reply."
        )
        self._work = meter.create_histogram(
            "rpc.server.call.duration", "s", "Seconds that a worker executes a command."
        )
        self._queued = meter.create_histogram(
            "soma.client.queue.duration", "s", "Seconds that a call waits for others of its worker."
        )
        self._started = meter.create_counter(
            "soma.worker.starts", "{worker}", "Workers that were started."
        )
        self._ended = meter.create_counter(
            "soma.worker.exits", "{worker}", "Workers that ended, and how."
        )
        self._flights: WeakKeyDictionary[Any, _Flight] = WeakKeyDictionary()

    @soma.hookimpl
    def soma_call_starting(self, call: Any) -> None:
        """In the host: begin a span, and send its context along."""
        waited = time.monotonic() - call.started
        span = self._tracer.start_span(
            _name(call),
            kind=SpanKind.CLIENT,
            attributes=_attributes(call),
            start_time=time.time_ns() - int(waited * _NS),
        )
        if span.is_recording():
            span.set_attribute("soma.queue.duration", waited)
            call.fields["meta"] = {**(call.fields.get("meta") or {}), **carried(span)}
        if waited > _A_WAIT:
            self._queued.record(waited, {"rpc.system.name": _SCOPE})
        self._flights[call] = _Flight(span, time.perf_counter())

    @soma.hookimpl
    def soma_call_finished(self, call: Any, reply: Any, error: BaseException | None) -> None:
        """In the host: end the span, and record that of the worker."""
        flight = self._flights.pop(call, None)
        if flight is None:
            return
        seconds = time.perf_counter() - flight.sent
        kind = _metric_attributes(call, error)
        self._calls.record(seconds, kind)
        worked = None if reply is None or reply.meta is None else reply.meta.get(META)
        if isinstance(worked, dict):
            self._record_work(flight.span, call, worked, kind)
        span = flight.span
        if error is not None and span.is_recording():
            span.record_exception(error)
            span.set_status(StatusCode.ERROR, str(error))
            span.set_attribute("error.type", _kind(error))
        span.end()

    def _record_work(
        self, parent: Span, call: Any, worked: dict[str, Any], kind: dict[str, str]
    ) -> None:
        """The worker's part of a call, as it measured that."""
        begun, seconds = int(worked["begun"]), float(worked["seconds"])
        self._work.record(seconds, kind)
        span = self._tracer.start_span(
            _name(call),
            context=trace.set_span_in_context(parent),
            kind=SpanKind.SERVER,
            attributes={**_attributes(call), "process.pid": int(worked["pid"])},
            start_time=begun,
        )
        span.end(begun + int(seconds * _NS))

    @soma.hookimpl(wrapper=True)
    def soma_execute(self, command: Any) -> Generator[None, Any, Any]:
        """In the worker: measure, with the host's span as that of whatever the filter traces."""
        return (yield from measured(command))

    @soma.hookimpl
    def soma_worker_started(self, transport: str) -> None:
        """In the host: count it."""
        self._started.add(1, {"soma.transport": transport})

    @soma.hookimpl
    def soma_worker_exited(self, transport: str, status: Any) -> None:
        """In the host: count it, by how it ended."""
        how = "unknown" if status is None else status.signal_name or f"exit {status.code}"
        self._ended.add(1, {"soma.transport": transport, "soma.exit": how})


def _name(call: Any) -> str:
    return call.cmd if call.node_id is None else f"{call.cmd} {call.node_id}"


def _attributes(call: Any) -> dict[str, str]:
    found = {"rpc.system.name": _SCOPE, "rpc.method": call.cmd}
    if call.node_id is not None:
        found["soma.node.id"] = call.node_id
    return found


def _metric_attributes(call: Any, error: BaseException | None) -> dict[str, str]:
    found = _attributes(call)
    if error is not None:
        found["error.type"] = _kind(error)
    return found


def _kind(error: BaseException) -> str:
    """The class of an error; of one of a filter, the class there."""
    return getattr(error, "remote_type", None) or type(error).__name__
