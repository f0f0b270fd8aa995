"""Limits that a worker puts on its own process, and that its children inherit."""

from __future__ import annotations

import re
import resource
import sys
from typing import Annotated, Any

from pydantic import BeforeValidator, Field


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


def memory_size(value: Any) -> Any:
    """Bytes of a text such as ``4G``; what is no text stays what it is.

    Args:
        value: A number, or a text: a number with K, M, G or T, which are powers of 1,024.

    Raises:
        ValueError: It is another text.
    """
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"a number of bytes is expected, as in 4000000 or 4G, got {value!r}")
    number, unit = found.groups()
    return int(float(number) * 1024 ** "_KMGT".index(unit.upper() or "_"))


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)

MemorySize = Annotated[int, BeforeValidator(memory_size), Field(ge=1)]
"""An option that is a number of bytes, or a text such as ``4G``."""
