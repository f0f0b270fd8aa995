"""Settings: where results are kept and how much of them, as the environment says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Settings", "settings_from"]

_SMALLEST = 1 << 20


@dataclass(frozen=True)
class Settings:
    """How a cache is kept.

    Attributes:
        directory: Where the results are.
        size: The bytes that they may take; the least recently used ones go first.
    """

    directory: Path
    size: int = 4 << 30


def settings_from(environment: Mapping[str, str]) -> Settings | None:
    """Read ``SOMA_CACHE_DIR`` and ``SOMA_CACHE_SIZE``; without a directory nothing is kept.

    Raises:
        ValueError: The size is none.
    """
    directory = environment.get("SOMA_CACHE_DIR", "")
    if not directory:
        return None
    size = environment.get("SOMA_CACHE_SIZE", "")
    path = Path(directory).expanduser()
    return Settings(path, _bytes(size)) if size else Settings(path)


def _bytes(text: str) -> int:
    from soma_core.transport import memory_size  # which no process needs that keeps nothing

    try:
        size = int(memory_size(text))
    except ValueError:
        size = 0
    if size < _SMALLEST:
        raise ValueError(
            f"SOMA_CACHE_SIZE is a size of at least 1 MiB such as 500M or 4G, got {text!r}"
        )
    return size
