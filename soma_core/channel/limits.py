"""Limits that a worker puts on its own process, and that its children inherit."""

from __future__ import annotations

import resource
import sys

__all__ = ["limit_memory"]


def limit_memory(size: int) -> None:
    """Let this process, and each of its children, take so many bytes for itself.

    On Linux that is writable memory of its own: libraries and shared memory do not count, nor
    does address space that was only reserved. What asks for more gets a MemoryError.

    Args:
        size: The limit; a lower one that holds already stays.
    """
    kind = resource.RLIMIT_DATA if sys.platform.startswith("linux") else resource.RLIMIT_AS
    _, hard = resource.getrlimit(kind)
    limit = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(kind, (limit, limit))
