"""A request that is part of a trace makes the call of the model a part of it."""

from __future__ import annotations

from typing import Any

import pytest

trace = pytest.importorskip("opentelemetry.trace", reason="make http has OpenTelemetry")

from .test_inference import client, infer  # noqa: E402

TRACE = 0x4BF92F3577B34DA6A3CE929D0E0E4736
PARENT = f"00-{TRACE:032x}-00f067aa0ba902b7-01"


def seen(x: Any) -> list[str]:
    return [format(trace.get_current_span().get_span_context().trace_id, "x")]


def test_the_trace_of_a_request_is_that_of_the_call():
    asked = client(seen=seen)
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}
    answer = asked.post("/v2/models/seen/infer", json=body, headers={"traceparent": PARENT})
    assert answer.json()["outputs"][0]["data"] == [format(TRACE, "x")]
    assert infer(asked, "seen").json()["outputs"][0]["data"] == ["0"]
    spoiled = asked.post("/v2/models/seen/infer", json=body, headers={"traceparent": "00-x"})
    assert spoiled.json()["outputs"][0]["data"] == ["0"]
