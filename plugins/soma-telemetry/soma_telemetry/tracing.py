"""Trace contexts as they travel: W3C ``traceparent`` in the meta of a command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

CONTEXT = "traceparent"
"""Where a context is, in what travels."""

_W3C = TraceContextTextMapPropagator()
_WRITTEN = "00-%032x-%016x-%02x"  # an f-string asks the class of the flags how to write them


def carried(span: trace.Span) -> dict[str, str]:
    """The context of a span, to be sent along."""
    one = span.get_span_context()
    said = {CONTEXT: _WRITTEN % (one.trace_id, one.span_id, one.trace_flags)}
    if one.trace_state:
        said["tracestate"] = one.trace_state.to_header()
    return said


def received(carrier: Mapping[str, Any]) -> context.Context:
    """The context that came along."""
    return _W3C.extract(carrier)


@contextmanager
def within(meta: Mapping[str, Any]) -> Iterator[None]:
    """Let the span whose context came be the current one."""
    token = context.attach(received(meta))
    try:
        yield
    finally:
        context.detach(token)
