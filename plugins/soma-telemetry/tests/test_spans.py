"""Calls are spans and metrics, in the host's pipeline."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soma_telemetry
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, get_current_span
from soma_telemetry.counts import payload_size
from soma_telemetry.on_demand import OnDemand
from soma_telemetry.plugin import Telemetry

import soma_core as soma
from soma_core.client.calls import Call
from soma_core.plugins.manager import installed_plugins
from soma_core.protocol.commands import Ping
from soma_core.protocol.replies import PingReply


class Recorded:
    """What was recorded."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.metrics = InMemoryMetricReader()
        self.tracers = tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.plugin = Telemetry(tracers, MeterProvider([self.metrics]))

    def named(self, name: str) -> dict[SpanKind, Any]:
        self.plugin.flush()
        return {span.kind: span for span in self.spans.get_finished_spans() if span.name == name}

    def points(self, metric: str) -> list[Any]:
        self.plugin.flush()
        data = self.metrics.get_metrics_data()
        assert data is not None
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for found in scope.metrics
            if found.name == metric
            for point in found.data.data_points
        ]


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    recorded = Recorded()
    plugins = installed_plugins()
    plugins.register("telemetry under test", recorded.plugin)
    yield recorded
    plugins.unregister("telemetry under test")


class Traced(soma.Filter):
    def forward(self, x: Any, state: Any) -> Any:
        if x is None:
            raise ValueError("nothing to trace")
        return format(get_current_span().get_span_context().trace_id, "032x")


@pytest.fixture
def worker(recorded: Recorded) -> Iterator[soma.Worker]:
    with soma.connect("inline", filters={"traced": Traced()}) as worker:
        yield worker


def test_a_call_is_a_span_in_the_host_with_one_of_the_worker_under_it(recorded, worker):
    worker.forward("traced", 1)
    spans = recorded.named("FORWARD traced")
    client, server = spans[SpanKind.CLIENT], spans[SpanKind.SERVER]
    assert server.parent.span_id == client.context.span_id
    assert client.start_time <= server.start_time <= server.end_time <= client.end_time
    assert client.attributes["rpc.system.name"] == "soma"
    assert client.attributes["rpc.method"] == "FORWARD"
    assert client.attributes["soma.node.id"] == "traced"
    assert client.attributes["soma.queue.duration"] >= 0
    assert server.attributes["process.pid"] == worker.ping().pid


def test_what_a_filter_traces_belongs_to_the_call(recorded, worker):
    trace_id = worker.forward("traced", 1)
    client = recorded.named("FORWARD traced")[SpanKind.CLIENT]
    assert trace_id == format(client.context.trace_id, "032x")


def test_a_call_that_fails_is_a_span_with_its_error(recorded, worker):
    with pytest.raises(ValueError, match="nothing to trace"):
        worker.forward("traced", None)
    spans = recorded.named("FORWARD traced")
    span, server = spans[SpanKind.CLIENT], spans[SpanKind.SERVER]
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "ValueError"
    assert span.events[0].name == "exception"
    assert server.parent.span_id == span.context.span_id
    assert server.status.status_code is StatusCode.ERROR


def test_calls_are_counted_by_command_node_and_error(recorded, worker):
    worker.forward("traced", 1)
    worker.forward("traced", 2)
    with pytest.raises(ValueError, match="nothing to trace"):
        worker.forward("traced", None)
    points = recorded.points("rpc.client.call.duration")
    counts = {
        "error.type" in point.attributes: point.count
        for point in points
        if point.attributes["rpc.method"] == "FORWARD"
    }
    assert counts == {False: 2, True: 1}


def test_a_call_that_waits_for_another_is_seen_to_wait(recorded, worker):
    call = Call.of(Ping(cmd="PING"))
    call.asked -= 0.5
    recorded.plugin.soma_call_starting(call)
    recorded.plugin.soma_call_finished(call, None, None)
    [point] = recorded.points("soma.client.queue.duration")
    assert point.sum >= 0.5
    span = recorded.named("PING")[SpanKind.CLIENT]
    assert span.attributes["soma.queue.duration"] >= 0.5
    assert span.end_time - span.start_time >= 0.5e9


def test_what_travels_is_counted_in_bytes(recorded, worker):
    worker.forward("traced", bytearray(1000))
    sent = {p.attributes["rpc.method"]: p for p in recorded.points("soma.client.payload.sent")}
    assert sent["FORWARD"].value == 1000
    received = recorded.points("soma.client.payload.received")
    assert {p.value for p in received if p.attributes["rpc.method"] == "FORWARD"} == {32}


def test_the_size_of_data_is_about_what_they_hold():
    assert payload_size({"a": np.zeros(10), "b": [b"12", "34"], "c": None}) == 84
    assert payload_size([0.5] * 1000) == 8000
    endless: list[Any] = []
    endless.append(endless)
    assert payload_size(endless) == 0


def test_workers_say_what_they_have_in_memory(recorded, worker):
    worked = {"begun": 0, "seconds": 0.0, "pid": os.getpid(), "memory": 5}
    reply = PingReply(pid=os.getpid(), incarnation="", meta={"telemetry": worked})
    call = Call.of(Ping(cmd="PING"))
    recorded.plugin.soma_call_starting(call)
    recorded.plugin.soma_call_finished(call, reply, None)
    [point] = recorded.points("soma.worker.memory")
    assert (point.value, point.attributes["process.pid"]) == (5, os.getpid())
    worker.close()
    assert recorded.points("soma.worker.memory") == []


def test_a_context_that_comes_along_is_the_parent(recorded):
    call = Call.of(Ping(cmd="PING"))
    call.fields["meta"] = {"traceparent": f"00-{7:032x}-{8:016x}-01", "kept": 1}
    recorded.plugin.soma_call_starting(call)
    recorded.plugin.soma_call_finished(call, None, None)
    span = recorded.named("PING")[SpanKind.CLIENT]
    assert (span.context.trace_id, span.parent.span_id) == (7, 8)
    assert call.fields["meta"]["kept"] == 1


class Mean(soma.Filter):
    def forward(self, x: Any, state: Any) -> Any:
        return x + 1

    def meta(self) -> soma.FilterMeta:
        return super().meta().replace(rowwise=True)


def test_calls_of_a_pool_belong_to_who_asked_and_those_that_are_joined_are_counted(recorded):
    tracer = recorded.tracers.get_tracer("test")
    batching = soma.Batching(max_rows=8, max_delay=10.0)
    with soma.WorkerPool("stdio", 1, filters={"mean": Mean()}, batching=batching) as pool:
        with tracer.start_as_current_span("alone") as alone:
            pool.forward("mean", np.zeros((1, 2)))
        asked = []
        for _ in range(8):
            with tracer.start_as_current_span("joined") as span:
                asked.append((pool.submit("mean", np.zeros((1, 2))), span))
        for future, _ in asked:
            future.result()
    recorded.plugin.flush()
    spans = [s for s in recorded.spans.get_finished_spans() if s.name == "FORWARD mean"]
    clients = [span for span in spans if span.kind is SpanKind.CLIENT]
    ids = {span.get_span_context().span_id for _, span in asked}
    assert clients[0].parent.span_id == alone.get_span_context().span_id
    joined = {s.parent.span_id for s in clients[1:]}
    joined |= {link.context.span_id for s in clients[1:] for link in s.links}
    assert joined == ids
    counted = sum(point.value for point in recorded.points("soma.batch.calls"))
    assert counted == sum(s.attributes.get("soma.batch.calls", 0) for s in clients) >= 2


def test_workers_are_counted_by_how_they_ended(recorded):
    soma.connect("inline").close()
    [started] = recorded.points("soma.worker.starts")
    assert (started.value, started.attributes["soma.transport"]) == (1, "inline")
    [ended] = recorded.points("soma.worker.exits")
    assert (ended.value, ended.attributes["soma.exit"]) == (1, "exit 0")


class Seeing:
    """Sees what commands bring along."""

    def __init__(self) -> None:
        self.metas: list[Any] = []

    @soma.hookimpl(wrapper=True)
    def soma_execute(self, command: Any) -> Any:
        self.metas.append(command.meta)
        return (yield)


@pytest.mark.parametrize("plugin", [Telemetry(), OnDemand()])
def test_without_a_pipeline_nothing_is_sent_along(plugin):
    seeing = Seeing()
    plugins = installed_plugins()
    plugins.register("without a pipeline", plugin)
    plugins.register("seeing", seeing)
    try:
        with soma.connect("inline") as worker:
            worker.ping()
    finally:
        plugins.unregister("seeing")
        plugins.unregister("without a pipeline")
    assert len(seeing.metas) >= 2
    assert not any(seeing.metas)


def test_the_installed_plugin_imports_nothing_until_it_is_of_use():
    program = "import sys, soma_telemetry; sys.exit('opentelemetry' in sys.modules)"
    path = str(Path(soma_telemetry.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert done.returncode == 0


def test_calls_of_an_async_worker_are_spans_too(recorded):
    async def call() -> str:
        async with soma.connect_async("inline", filters={"traced": Traced()}) as worker:
            return await worker.forward("traced", 1)

    trace_id = asyncio.run(call())
    spans = recorded.named("FORWARD traced")
    assert spans.keys() == {SpanKind.CLIENT, SpanKind.SERVER}
    assert trace_id == format(spans[SpanKind.CLIENT].context.trace_id, "032x")


class Cached:
    """Says what a cache in a worker would."""

    @soma.hookimpl(wrapper=True)
    def soma_execute(self, command: Any) -> Any:
        reply = yield
        reply.meta = {**(reply.meta or {}), "cache": {"last": "hit"}}
        return reply


def test_results_of_a_cache_are_counted(recorded):
    plugins = installed_plugins()
    plugins.register("a cache", Cached())
    try:
        with soma.connect("inline", filters={"traced": Traced()}) as worker:
            worker.forward("traced", 1)
    finally:
        plugins.unregister("a cache")
    found = {
        point.attributes["rpc.method"]: point for point in recorded.points("soma.cache.results")
    }
    assert found["FORWARD"].value == 1
    assert found["FORWARD"].attributes["soma.cache.result"] == "hit"


def test_what_a_quiet_host_did_last_is_recorded_too(recorded, worker):
    worker.forward("traced", 1)
    deadline = time.monotonic() + 10.0
    while not recorded.spans.get_finished_spans():
        assert time.monotonic() < deadline
        time.sleep(0.01)
