"""Store: entries on disk, shared by any number of processes, through diskcache without its pickles.

Whatever is wrong with the disk makes a miss: it is logged once, and never raised.
"""

from __future__ import annotations

import io
import logging
import os
import sqlite3
import warnings
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import diskcache

from soma_cache.entries import Damaged, encode, read, size_of
from soma_cache.settings import Settings
from soma_core.errors import ProtocolError

__all__ = ["MISSING", "Store"]

_log = logging.getLogger("soma.cache")
_PATIENCE = 5.0  # seconds to wait for other processes at the index
MISSING = object()


class Store:
    """Results by key.

    Args:
        settings: Where they are, and how many.

    Attributes:
        trouble: What was wrong last, or None.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: diskcache.Cache | None = None
        self.trouble: str | None = None

    def get(self, key: bytes) -> Any:
        """The result of a key; ``MISSING`` if it is not here, or not whole."""
        try:
            found = self._cache().get(key, read=True, default=None)
            if found is None:
                return MISSING
            with found as file:
                return read(key, file, os.fstat(file.fileno()).st_size)
        except Damaged as error:
            self._tell(f"an entry is damaged and was removed: {error}")
            self._remove(key)
        except Exception as error:  # a damaged index may raise anything
            self._tell(f"{type(error).__name__}: {error}")
        return MISSING

    def put(self, key: bytes, result: Any) -> str | None:
        """Keep a result; None if it is kept, else why it is not."""
        try:
            pieces = encode(key, result)
        except ProtocolError as error:
            return f"the result is not typed values: {error}"
        size = size_of(pieces)
        if size > self._settings.size // 2:
            return f"the result of {size:,} bytes is more than half of the cache"
        try:
            self._cache().set(key, pieces)
        except Exception as error:
            self._tell(f"{type(error).__name__}: {error}")
            return self.trouble
        return None

    def content(self) -> tuple[int, int]:
        """How many results there are, and their bytes."""
        cache = self._cache()
        return len(cache), cache.volume()

    def clear(self) -> int:
        """Remove all results, and return how many there were."""
        removed: int = self._cache().clear()
        return removed

    def repair(self) -> int:
        """Remove what a killed process left behind, and return how much was amiss.

        What other processes are writing at the time is lost to them, and a miss.
        """
        with warnings.catch_warnings():  # which is how diskcache counts
            warnings.simplefilter("always")
            return len(self._cache().check(fix=True))

    def _cache(self) -> diskcache.Cache:
        """The index, opened when first needed: a worker that keeps nothing has none."""
        if self._opened is None:
            directory = self._settings.directory
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _require_own(directory)
            self._opened = diskcache.Cache(
                str(directory),
                timeout=_PATIENCE,
                disk=_Entries,
                eviction_policy="least-recently-used",
                size_limit=self._settings.size,
            )
            weakref.finalize(self, self._opened.close)
        return self._opened

    def _remove(self, key: bytes) -> None:
        with suppress(Exception):
            self._cache().delete(key)

    def _tell(self, trouble: str) -> None:
        where = self._settings.directory
        if self.trouble is None:
            _log.warning(
                "the cache at %s: %s; results are computed again. If this repeats, remove %s",
                where,
                trouble,
                where,
            )
        self.trouble = trouble


def _require_own(directory: Path) -> None:
    """Refuse a directory into which another user could put results."""
    status = directory.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(
            f"{directory} is not this user's alone, and others could put results there: "
            f"chmod 700 {directory}, or name another one"
        )


class _Entries(diskcache.Disk):  # type: ignore[misc]
    """How diskcache keeps an entry: always as a file of its own, and never as a pickle."""

    def put(self, key: bytes) -> tuple[Any, bool]:
        return sqlite3.Binary(key), True

    def get(self, key: Any, raw: bool) -> bytes:
        return bytes(key)

    def store(
        self, value: Sequence[memoryview], read: bool, key: Any = None
    ) -> tuple[int, int, str, None]:
        name, path = self.filename()
        try:
            size = self._write(path, iter(value), "xb")
        except BaseException:
            self.remove(name)
            raise
        return size, diskcache.core.MODE_BINARY, name, None

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> BinaryIO:
        if mode != diskcache.core.MODE_BINARY or filename is None:
            raise OSError(f"the index has an entry of mode {mode}, which is never written")
        return io.FileIO(os.path.join(self._directory, filename))
