"""Trace contexts as they travel: W3C ``traceparent`` in the meta of a command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = ["carried", "within"]

_W3C = TraceContextTextMapPropagator()


def carried(span: trace.Span) -> dict[str, str]:
    """The context of a span, to be sent along."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span))
    return carrier


@contextmanager
def within(meta: Mapping[str, Any]) -> Iterator[None]:
    """Let the span whose context came be the current one."""
    token = context.attach(_W3C.extract(meta))
    try:
        yield
    finally:
        context.detach(token)
