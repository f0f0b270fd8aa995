"""Traces: a request that is part of one makes what the server does for it a part of it too.

OpenTelemetry is used where the program has imported it, as ``opentelemetry-instrument`` does;
soma-telemetry records the spans of the calls.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_API = "opentelemetry.trace"


@contextmanager
def part_of_trace(headers: Mapping[str, str]) -> Iterator[None]:
    """Let the span that the headers of a request name be the current one, if they name one."""
    if "traceparent" not in headers or _API not in sys.modules:
        yield
        return
    from opentelemetry import context, propagate

    token = context.attach(propagate.extract(headers))
    try:
        yield
    finally:
        context.detach(token)
