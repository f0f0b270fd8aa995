"""Exceptions for another process: what travels of them, and their tracebacks."""

from soma_core.raised.description import Raised, shortened
from soma_core.raised.plain import read
from soma_core.raised.stack import (
    StackEntry,
    holds_source,
    sources_agree,
    traceback_from,
    without_first,
)

__all__ = [
    "Raised",
    "StackEntry",
    "holds_source",
    "read",
    "shortened",
    "sources_agree",
    "traceback_from",
    "without_first",
]
