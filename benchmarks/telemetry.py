"""What tracing a call costs: ``python -m benchmarks.telemetry`` measures a call with and without.

The worker is a process over stdio; host and worker have soma-telemetry. The pipeline of the host is
OpenTelemetry's SDK with an exporter that keeps nothing, so that what is measured is the price of
recording. Rounds are interleaved; shown are medians, and what each adds to one without telemetry.
The last two columns are the processor time of the plugin alone, in a loop without a worker: what a
call waits for, and what is done beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from importlib.util import find_spec
from typing import Any, ClassVar

import soma_core as soma
from soma_core.benchmarking import time_name
from soma_core.client.calls import Call
from soma_core.protocol.commands import Ping
from soma_core.testing import Echo
from soma_core.tooling import installed_plugins

__all__ = ["measure"]

META = "telemetry"
PLUGIN = "telemetry that is measured"


def plugins() -> dict[str, Any]:
    """What is registered in the host, by what the row is called."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
    from soma_telemetry.plugin import Telemetry

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    tracers = TracerProvider()
    room = 100_000  # this loop ends spans faster than any worker answers, and full queues log that
    tracers.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=room))
    unsampled = TracerProvider(sampler=ALWAYS_OFF)
    return {
        "without telemetry": None,
        "no pipeline in the program": Telemetry(),
        "metrics, no trace is sampled": Telemetry(
            unsampled, MeterProvider([InMemoryMetricReader()])
        ),
        "spans of host and worker": Telemetry(tracers),
        "spans and metrics": Telemetry(tracers, MeterProvider([InMemoryMetricReader()])),
    }


def only_what_is_measured() -> None:
    """Leave out, in the host, the plugin that is installed: it would do everything once more."""
    os.environ["SOMA_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    installed_plugins()
    del os.environ["SOMA_DISABLE_PLUGIN_AUTOLOAD"]  # the worker has it


def measure(calls: int, rounds: int) -> dict[str, float]:
    """The median of a call in seconds, by what is registered in the host."""
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, plugin in plugins().items():
            times.setdefault(name, []).extend(_calls(plugin, calls))
    return {name: statistics.median(found) for name, found in times.items()}


def _calls(plugin: Any, count: int) -> list[float]:
    if plugin is not None:
        installed_plugins().register(PLUGIN, plugin)
    try:
        with soma.connect("stdio", filters={"echo": Echo()}) as worker:
            return [_seconds(worker) for _ in range(count + count // 5)][count // 5 :]
    finally:
        if plugin is not None:
            installed_plugins().unregister(PLUGIN)


def _seconds(worker: soma.Worker) -> float:
    started = time.perf_counter()
    worker.forward("echo", 1.0)
    return time.perf_counter() - started


class _Reply:
    """The reply of a worker that measured."""

    meta: ClassVar[dict[str, Any]] = {META: {"begun": time.time_ns(), "seconds": 1e-4, "pid": 1}}


class _PlainReply:
    """That of one which did not."""

    meta = None


def processor_time(plugin: Any, calls: int = 200, rounds: int = 50) -> tuple[float, float]:
    """Seconds of the processor for a call within it, and beside it: the least of some rounds.

    A call waits for its own thread alone, and not for that of an exporter.
    """
    within, beside = [], []
    for _ in range(rounds):
        made = [Call.of(Ping(cmd="PING")) for _ in range(calls)]
        begun, all_begun = time.thread_time(), time.process_time()
        for one in made:
            plugin.soma_call_starting(one)
            reply = _Reply if one.fields.get("meta") else _PlainReply
            plugin.soma_call_finished(one, reply, None)
        waited = time.thread_time() - begun
        plugin.flush()
        within.append(waited / calls)
        beside.append((time.process_time() - all_begun - waited) / calls)
    return min(within), min(beside)


def start_of_a_span(calls: int = 200, rounds: int = 50) -> float:
    """Seconds of the processor for what the SDK does within a call: the least of some rounds."""
    from opentelemetry.sdk.trace import TracerProvider

    tracer, found = TracerProvider().get_tracer("soma"), []
    for _ in range(rounds):
        begun = time.process_time()
        for _ in range(calls):
            tracer.start_span("FORWARD echo")
        found.append((time.process_time() - begun) / calls)
    return min(found)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser("python -m benchmarks.telemetry", description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if find_spec("soma_telemetry") is None or find_spec("opentelemetry") is None:
        sys.exit("this measures soma-telemetry, which is not installed: make http has it")
    only_what_is_measured()
    found = measure(options.calls, options.rounds)
    least = next(iter(found.values()))
    prices = {name: processor_time(one) for name, one in plugins().items() if one is not None}
    print("| in the host | a call | more | plugin: within | beside |\n" + "| --- " * 5 + "|")
    for name, seconds in found.items():
        price = " | ".join(map(time_name, prices.get(name, (0.0, 0.0))))
        print(f"| {name} | {time_name(seconds)} | {time_name(seconds - least)} | {price} |")
    print(f"\nThe SDK's own start of a span, within: {time_name(start_of_a_span())}")


if __name__ == "__main__":
    main()
