"""The plugin: what it does at the start and end of a call, in the host and in the worker.

The worker measures, and the host records: spans and metrics of both are exported by the host's own
pipeline, so that a worker needs none, wherever it runs. Where the host has no pipeline, nothing is
sent along and nothing is measured. A call itself pays for the start of its span alone: the rest is
done while the host waits for the next one, or soon after it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from time import monotonic, perf_counter, time_ns
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.context import Context, get_current
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Link, Span, SpanKind, StatusCode

import soma_core as soma
from soma_telemetry.backlog import Backlog
from soma_telemetry.counts import Counts, payload_size
from soma_telemetry.measuring import META, measured
from soma_telemetry.tracing import CONTEXT, carried, received

_SCOPE = "soma"
_NS = 1_000_000_000
_A_WAIT = 0.001  # seconds: what is less is no waiting for others
_DATA = ("data", "y")  # the fields of a command that hold a caller's data
_COUNTED = {
    "soma.cache.results": ("{result}", "Results that were looked for in a cache."),
    "soma.client.payload.sent": ("By", "Bytes of the data in commands."),
    "soma.client.payload.received": ("By", "Bytes of the data in replies."),
    "soma.batch.commands": ("{command}", "Commands that ran several calls of a pool together."),
    "soma.batch.calls": ("{call}", "The calls that those ran."),
}


@dataclass(slots=True, init=False, eq=False)
class _Flight:
    """A call that is under way, or has ended and waits to be recorded."""

    span: Span
    waited: float  # seconds, for others of its worker
    joined: int  # calls of a pool
    size: int  # bytes of its data
    begun: float  # time.perf_counter() when it was sent
    seconds: float  # from then to its reply
    ended: int  # time.time_ns() of that
    cmd: str
    node_id: str | None
    error: str | None  # what kind it is, if it raised one
    received: int  # bytes of its result
    said: Mapping[str, Any] | None  # by plugins of the worker


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
        meter.create_observable_gauge(
            "soma.worker.memory", [self._memory], "By", "What workers have in memory, as they say."
        )
        self._counts = Counts(meter, _COUNTED)
        self._memories: dict[int, int] = {}
        self._flights: dict[int, _Flight] = {}
        self._backlog = Backlog()

    def flush(self) -> None:
        """Record all calls that have ended, and return once that is done."""
        self._backlog.flush()

    @soma.hookimpl
    def soma_call_starting(self, call: Any) -> None:
        """In the host: begin a span, and send its context along."""
        flight = _Flight()
        flight.waited = waited = monotonic() - call.asked
        fields, contexts, links = call.fields, call.contexts, None
        meta = fields.get("meta")
        if contexts:
            parent, links = _part_of(contexts)
        else:
            parent = get_current()  # the SDK would look for it three times
        if meta and CONTEXT in meta:
            parent = received(meta)
        flight.span = span = self._tracer.start_span(
            _name(fields["cmd"], fields.get("node_id")),
            parent,
            SpanKind.CLIENT,
            links=links,
            start_time=time_ns() - int(waited * _NS),
        )
        if span.is_recording():
            fields["meta"] = {**meta, **carried(span)} if meta else carried(span)
        flight.joined = len(contexts)
        flight.size = 0
        for name in _DATA:
            if name in fields:
                flight.size += payload_size(fields[name])
        self._flights[id(call)] = flight  # each call that starts ends, so that none stays
        flight.begun = perf_counter()

    @soma.hookimpl
    def soma_call_sent(self, call: Any) -> None:
        """In the host, which waits from now on: record the calls before this one."""
        self._backlog.flush()

    @soma.hookimpl
    def soma_call_finished(self, call: Any, reply: Any, error: BaseException | None) -> None:
        """In the host: end the span, and record that of the worker."""
        flight = self._flights.pop(id(call), None)
        if flight is None:
            return
        flight.seconds, flight.ended = perf_counter() - flight.begun, time_ns()
        flight.cmd, flight.node_id = call.fields["cmd"], call.fields.get("node_id")
        flight.error = None if error is None else _kind(error)
        if error is not None and flight.span.is_recording():  # it may change once it is raised
            flight.span.record_exception(error)
            flight.span.set_status(StatusCode.ERROR, str(error))
        flight.received = payload_size(getattr(reply, "result", None))
        flight.said = getattr(error, "plugins", None) if reply is None else reply.meta
        self._backlog.add(self._record, flight)

    def _record(self, flight: _Flight) -> None:
        """Record a call in the host, and the worker's part of it."""
        attributes, span = _attributes(flight.cmd, flight.node_id), flight.span
        kind = attributes
        if flight.error is not None:
            kind = {**kind, "error.type": flight.error}
        self._calls.record(flight.seconds, kind)
        if flight.waited > _A_WAIT:
            self._queued.record(flight.waited, {"rpc.system.name": _SCOPE})
        self._count(flight, attributes)
        worked = flight.said.get(META) if flight.said else None
        if isinstance(worked, dict):
            self._record_work(flight, worked, kind)
        if span.is_recording():
            span.set_attributes({**kind, "soma.queue.duration": flight.waited})
            if flight.joined > 1:
                span.set_attribute("soma.batch.calls", flight.joined)
            span.end(flight.ended)

    def _count(self, flight: _Flight, attributes: dict[str, str]) -> None:
        counts = self._counts
        if flight.size:
            counts.add("soma.client.payload.sent", flight.size, attributes)
        if flight.received:
            counts.add("soma.client.payload.received", flight.received, attributes)
        if flight.joined > 1:
            counts.add("soma.batch.commands", 1, attributes)
            counts.add("soma.batch.calls", flight.joined, attributes)
        cache = flight.said.get("cache") if flight.said else None
        if isinstance(cache, dict):
            said = {**attributes, "soma.cache.result": str(cache.get("last"))}
            counts.add("soma.cache.results", 1, said)

    def _record_work(self, flight: _Flight, worked: dict[str, Any], kind: dict[str, str]) -> None:
        """The worker's part of a call, as it measured that."""
        begun, seconds, pid = int(worked["begun"]), float(worked["seconds"]), int(worked["pid"])
        self._work.record(seconds, kind)
        self._memories[pid] = int(worked.get("memory") or self._memories.get(pid, 0))
        span = self._tracer.start_span(
            _name(flight.cmd, flight.node_id),
            context=trace.set_span_in_context(flight.span),
            kind=SpanKind.SERVER,
            attributes={**_attributes(flight.cmd, flight.node_id), "process.pid": pid},
            start_time=begun,
        )
        if flight.error is not None:
            span.set_attribute("error.type", flight.error)
            span.set_status(StatusCode.ERROR)
        span.end(begun + int(seconds * _NS))

    def _memory(self, options: CallbackOptions) -> Iterable[Observation]:
        found = list(self._memories.items())
        return [Observation(size, {"process.pid": pid}) for pid, size in found if size]

    @soma.hookimpl(wrapper=True)
    def soma_execute(self, command: Any) -> Generator[None, Any, Any]:
        """In the worker: measure, with the host's span as that of whatever the filter traces."""
        return (yield from measured(command))

    @soma.hookimpl
    def soma_worker_started(self, transport: str) -> None:
        """In the host: count it."""
        self._started.add(1, {"soma.transport": transport})

    @soma.hookimpl
    def soma_worker_exited(self, transport: str, pid: int, status: Any) -> None:
        """In the host: count it, by how it ended, and record its last calls."""
        how = "unknown" if status is None else status.signal_name or f"exit {status.code}"
        self._ended.add(1, {"soma.transport": transport, "soma.exit": how})
        self.flush()
        self._memories.pop(pid, None)


def _part_of(contexts: tuple[Any, ...]) -> tuple[Context, list[Link] | None]:
    """What a command of a pool is a part of: that of its first call, linked to the others."""
    first, *others = [one.run(get_current) for one in contexts]
    if not others:
        return first, None
    spans = [trace.get_current_span(one).get_span_context() for one in others]
    return first, [Link(one) for one in spans if one.is_valid]


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
