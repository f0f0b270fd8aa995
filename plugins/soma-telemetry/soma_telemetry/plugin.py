"""The plugin: what it does at the start and end of a call, in the host and in the worker.

The worker measures, and the host records: spans and metrics of both are exported by the host's own
pipeline, so that a worker needs none, wherever it runs. Where the host has no pipeline, nothing is
sent along and nothing is measured. A call itself pays for the start of its span alone: the rest is
done while the host waits for the next one, or soon after it.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry import metrics, trace
from opentelemetry.trace import Span, SpanKind, StatusCode

import soma_core as soma
from soma_telemetry.backlog import Backlog
from soma_telemetry.measuring import META, measured
from soma_telemetry.tracing import carried

__all__ = ["Telemetry"]

_SCOPE = "soma"
_NS = 1_000_000_000
_A_WAIT = 0.001  # seconds: what is less is no waiting for others


@dataclass(frozen=True, slots=True)
class _Flight:
    """A call that is under way.

    Attributes:
        span: Its span.
        waited: Seconds that it waited for others of its worker.
        sent: When it was sent (``time.perf_counter``).
    """

    span: Span
    waited: float
    sent: float


@dataclass(frozen=True, slots=True)
class _Landing:
    """A call that has ended.

    Attributes:
        name: What its spans are called.
        attributes: Its command and node.
        seconds: From its sending to its reply.
        ended: When that was (``time.time_ns``).
        error: What kind of error it raised, if it did.
        said: What plugins of the worker said.
    """

    name: str
    attributes: dict[str, str]
    seconds: float
    ended: int
    error: str | None
    said: Mapping[str, Any]


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
        self._cached = meter.create_counter(
            "soma.cache.results", "{result}", "Results that were looked for in a cache."
        )
        self._flights: WeakKeyDictionary[Any, _Flight] = WeakKeyDictionary()
        self._backlog = Backlog()

    def flush(self) -> None:
        """Record all calls that have ended, and return once that is done."""
        self._backlog.flush()

    @soma.hookimpl
    def soma_call_starting(self, call: Any) -> None:
        """In the host: begin a span, and send its context along."""
        waited = time.monotonic() - call.started
        span = self._tracer.start_span(
            _name(call.cmd, call.node_id),
            kind=SpanKind.CLIENT,
            attributes=_attributes(call.cmd, call.node_id),
            start_time=time.time_ns() - int(waited * _NS),
        )
        if span.is_recording():
            call.fields["meta"] = {**(call.fields.get("meta") or {}), **carried(span)}
        self._flights[call] = _Flight(span, waited, time.perf_counter())

    @soma.hookimpl
    def soma_call_sent(self, call: Any) -> None:
        """In the host, which waits from now on: record the calls before this one."""
        self._backlog.flush()

    @soma.hookimpl
    def soma_call_finished(self, call: Any, reply: Any, error: BaseException | None) -> None:
        """In the host: end the span, and record that of the worker."""
        flight = self._flights.pop(call, None)
        if flight is None:
            return
        seconds, ended = time.perf_counter() - flight.sent, time.time_ns()
        if error is not None and flight.span.is_recording():  # it may change once it is raised
            flight.span.record_exception(error)
            flight.span.set_status(StatusCode.ERROR, str(error))
        landing = _Landing(
            _name(call.cmd, call.node_id),
            _attributes(call.cmd, call.node_id),
            seconds,
            ended,
            None if error is None else _kind(error),
            {} if reply is None or reply.meta is None else reply.meta,
        )
        self._backlog.add(self._record, flight, landing)

    def _record(self, flight: _Flight, landing: _Landing) -> None:
        """Record a call in the host, and the worker's part of it."""
        kind, span = landing.attributes, flight.span
        if landing.error is not None:
            kind = {**kind, "error.type": landing.error}
        self._calls.record(landing.seconds, kind)
        if flight.waited > _A_WAIT:
            self._queued.record(flight.waited, {"rpc.system.name": _SCOPE})
        worked, cache = landing.said.get(META), landing.said.get("cache")
        if isinstance(worked, dict):
            self._record_work(span, landing, worked, kind)
        if isinstance(cache, dict):
            self._cached.add(1, {**kind, "soma.cache.result": str(cache.get("last"))})
        if span.is_recording():
            span.set_attribute("soma.queue.duration", flight.waited)
            if landing.error is not None:
                span.set_attribute("error.type", landing.error)
            span.end(landing.ended)

    def _record_work(
        self, parent: Span, landing: _Landing, worked: dict[str, Any], kind: dict[str, str]
    ) -> None:
        """The worker's part of a call, as it measured that."""
        begun, seconds = int(worked["begun"]), float(worked["seconds"])
        self._work.record(seconds, kind)
        span = self._tracer.start_span(
            landing.name,
            context=trace.set_span_in_context(parent),
            kind=SpanKind.SERVER,
            attributes={**landing.attributes, "process.pid": int(worked["pid"])},
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
        """In the host: count it, by how it ended, and record its last calls."""
        how = "unknown" if status is None else status.signal_name or f"exit {status.code}"
        self._ended.add(1, {"soma.transport": transport, "soma.exit": how})
        self.flush()


@lru_cache(1024)
def _name(cmd: str, node_id: str | None) -> str:
    return cmd if node_id is None else f"{cmd} {node_id}"


@lru_cache(1024)
def _attributes(cmd: str, node_id: str | None) -> dict[str, str]:
    """The attributes of a call, which nobody changes."""
    found = {"rpc.system.name": _SCOPE, "rpc.method": cmd}
    if node_id is not None:
        found["soma.node.id"] = node_id
    return found


def _kind(error: BaseException) -> str:
    """The class of an error; of one of a filter, the class there."""
    return getattr(error, "remote_type", None) or type(error).__name__
