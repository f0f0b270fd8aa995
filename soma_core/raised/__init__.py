"""Exceptions for another process: what travels of them, and their tracebacks."""

from soma_core.raised.description import Raised
from soma_core.raised.stack import StackEntry, sources_agree, traceback_from

__all__ = ["Raised", "StackEntry", "sources_agree", "traceback_from"]
