"""The dashboard of calls asks Prometheus for what the plugin exports."""

from __future__ import annotations

import json
import re
import time
from contextvars import copy_context
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from soma_telemetry.plugin import Telemetry

from soma_core.client.calls import Call
from soma_core.protocol.commands import Ping

exporter = pytest.importorskip("opentelemetry.exporter.prometheus", reason="make http has it")

FILE = Path(__file__).parents[3] / "examples" / "deployment" / "grafana-telemetry.json"
NAMED = re.compile(r"\b((?:rpc|soma)_\w+)\{")
LABELS = re.compile(r"by \((\w+)|(\w+)!?=~?\"")


class Reply:
    """What a worker with a cache says."""

    result = b"12"
    meta = {  # noqa: RUF012
        "telemetry": {"begun": time.time_ns(), "seconds": 1e-4, "pid": 1, "memory": 10},
        "cache": {"last": "hit"},
    }


@pytest.fixture(scope="module")
def text() -> str:
    """What Prometheus reads after a few calls."""
    from prometheus_client import generate_latest

    reader = exporter.PrometheusMetricReader()
    plugin = Telemetry(meters=MeterProvider([reader]))
    for error in (None, ValueError("x")):
        call = Call.of(Ping(cmd="PING"))
        call.fields |= {"data": b"1", "node_id": "a"}
        call.asked -= 1.0
        call.contexts = (copy_context(), copy_context())
        plugin.soma_call_starting(call)
        plugin.soma_call_finished(call, Reply, error)
    plugin.soma_worker_started("stdio")
    plugin.soma_worker_exited("stdio", 2, None)
    return generate_latest().decode()


def test_the_dashboard_asks_for_metrics_and_labels_that_there_are(text):
    exported = {re.split(r"[{ ]", line)[0] for line in text.splitlines() if line[:1] != "#"}
    panels = json.loads(FILE.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    named = {name for one in asked for name in NAMED.findall(one)}
    assert named - exported == set()
    assert len(named) >= 11
    labels = {"".join(found) for one in asked for found in LABELS.findall(one)}
    assert {one for one in labels if f"{one}=" not in text} <= {"job"}  # which Prometheus adds
    assert len(labels) >= 6


def test_each_metric_is_on_the_dashboard(text):
    shown = FILE.read_text()
    families = re.findall(r"^# TYPE ((?:rpc|soma)\S+) ", text, re.M)
    assert len(families) >= 11
    assert [one for one in families if one not in shown] == []
