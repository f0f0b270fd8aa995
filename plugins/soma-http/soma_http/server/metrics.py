"""What a server has done, for Prometheus: counted as it happens, and read from the pools."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

import soma_core as soma
from soma_http.server.models import Models
from soma_http.server.sessions import WebSocketSessions

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_GAUGES = {
    "workers": "Workers of the pool of a model.",
    "queued": "Requests that wait for a worker.",
    "running": "Requests that a worker runs.",
}
_COUNTERS = {
    "done": "Requests that gave a result.",
    "failed": "Requests that raised.",
    "cancelled": "Requests that were cancelled.",
    "refused": "Requests that were refused, since the queue was full.",
    "replaced": "Workers that took the place of one that died or was recycled.",
    "batches": "Commands that ran several requests together.",
    "batched": "The requests that those ran.",
}
_OUTCOMES = ("hits", "misses", "skipped")
"""What soma-cache says of itself."""


class Metrics:
    """The metrics of one server."""

    def __init__(self, models: Models, sessions: WebSocketSessions) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "soma_http_requests",
            "Answers to inference requests.",
            ["model", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "soma_http_request_seconds",
            "Seconds from an inference request to its answer.",
            ["model"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._received = Counter(
            "soma_http_request_bytes",
            "Bytes of the bodies of inference requests, decompressed.",
            ["model"],
            registry=self._registry,
        )
        self._sent = Counter(
            "soma_http_response_bytes",
            "Bytes of the bodies of their answers.",
            ["model"],
            registry=self._registry,
        )
        self._registry.register(_Pools(models, sessions))

    def count(self, model: str, status: int, started: float, received: int, sent: int) -> None:
        """An inference request was answered, which came at that time of ``time.perf_counter``."""
        self._requests.labels(model, str(status)).inc()
        self._seconds.labels(model).observe(perf_counter() - started)
        self._received.labels(model).inc(received)
        self._sent.labels(model).inc(sent)

    async def show(self, request: Request) -> Response:
        """All of them, as Prometheus reads them."""
        return Response(
            generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


class _Pools(Collector):
    """Reads what pools and sessions count by themselves."""

    def __init__(self, models: Models, sessions: WebSocketSessions) -> None:
        self._models = models
        self._sessions = sessions

    def collect(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily(
            "soma_model_ready", "Whether a model can be asked.", labels=["model"]
        )
        stats = {}
        for model in self._models:
            ready.add_metric([model.name], float(model.ready))
            found = model.stats()
            if found is not None:
                stats[model.name] = found
        yield ready
        yield from _of_pools(stats)
        yield from _of_workers({model.name: model.workers() for model in self._models})
        yield GaugeMetricFamily(
            "soma_http_workers", "Workers of clients' own that run.", value=len(self._sessions)
        )
        yield CounterMetricFamily(
            "soma_http_workers_started",
            "Workers of clients' own that were started.",
            value=self._sessions.started,
        )


def _of_pools(stats: dict[str, soma.PoolStats]) -> Iterator[Metric]:
    for family, texts in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
        for name, text in texts.items():
            metric = family(f"soma_pool_{name}", text, labels=["model"])
            for model, found in stats.items():
                # what only each node counts is that of all nodes together
                counted = [found] if hasattr(found, name) else found.nodes.values()
                metric.add_metric([model], sum(getattr(one, name) for one in counted))
            yield metric


def _of_workers(found: dict[str, list[soma.WorkerStatus]]) -> Iterator[Metric]:
    """What the running workers use, and what their caches have done."""
    memory = GaugeMetricFamily(
        "soma_pool_memory_bytes", "Resident memory of the workers of a model.", labels=["model"]
    )
    cache = GaugeMetricFamily(
        "soma_pool_cache_results",
        "Results that the running workers found in their cache, or did not.",
        labels=["model", "outcome"],
    )
    for model, workers in found.items():
        memory.add_metric([model], sum(worker.memory_bytes or 0 for worker in workers))
        said = [worker.plugins["cache"] for worker in workers if "cache" in worker.plugins]
        for outcome in _OUTCOMES if said else ():
            cache.add_metric([model, outcome], sum(one.get(outcome, 0) for one in said))
    yield memory
    yield cache
