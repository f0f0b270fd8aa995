"""Settings: where results are kept and how much of them, as options or the environment say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

_SMALLEST = 1 << 20


class CacheOptions(BaseModel):
    """What a host may say of the cache: ``soma.connect("stdio", plugins={"cache": {…}})``.

    Attributes:
        directory: Where results are kept; ``SOMA_CACHE_DIR`` by default.
        size: How much of them, in bytes or as in ``"4G"``; ``SOMA_CACHE_SIZE`` by default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    directory: Path | None = None
    size: int | str | None = None


@dataclass(frozen=True)
class CacheSettings:
    """How a cache is kept.

    Attributes:
        directory: Where the results are.
        size: The bytes that they may take; the least recently used ones go first.
    """

    directory: Path
    size: int = 4 << 30


def settings_from(
    environment: Mapping[str, str], options: CacheOptions | None = None
) -> CacheSettings | None:
    """The settings; None without a directory, and then nothing is kept.

    Args:
        environment: May hold ``SOMA_CACHE_DIR`` and ``SOMA_CACHE_SIZE``.
        options: They go before the environment.

    Raises:
        ValueError: The size is none.
    """
    given = options or CacheOptions()
    directory = given.directory or environment.get("SOMA_CACHE_DIR")
    if not directory:
        return None
    size = environment.get("SOMA_CACHE_SIZE") if given.size is None else given.size
    path = Path(directory).expanduser()
    return CacheSettings(path) if size in (None, "") else CacheSettings(path, _bytes(size))


def _bytes(given: int | str | None) -> int:
    from soma_core.transport import memory_size  # which no process needs that keeps nothing

    try:
        size = int(memory_size(given))
    except ValueError:
        size = 0
    if size < _SMALLEST:
        raise ValueError(
            "the size of the cache (SOMA_CACHE_SIZE) is at least 1 MiB, such as 500M or 4G; "
            f"got {given!r}"
        )
    return size
