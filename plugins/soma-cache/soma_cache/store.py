"""Store: entries on disk, each in a file that is named after its key.

There is no index: nothing says which files there are but the directory itself, so that nothing can
name another file, hold a lock, or be out of step after a process was killed. A file is written
beside its place and then put there. Whatever is wrong with the disk makes a miss: it is logged
once, and never raised.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from soma_cache.entries import Damaged, encode, read, size_of
from soma_cache.keys import KEY_SIZE
from soma_cache.settings import CacheSettings
from soma_core.errors import ProtocolError

_log = logging.getLogger("soma.cache")
_SUFFIX, _UNFINISHED = ".val", ".part"
_SHARDS = frozenset(f"{number:02x}" for number in range(256))
_BLOCK = 4096  # bytes that even the smallest file takes
_SHARE = 64  # the directory is looked through after so small a part of its size was written
_FULL = 0.9  # and then has room again
_ABANDONED = 3600.0  # seconds after which nobody is writing a file any more
_READ_AT_ONCE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
MISSING = object()


class _File(NamedTuple):
    """A file of the cache, the least recently used ones first in order."""

    used: float
    size: int
    path: Path


class Store:
    """Results by key.

    Attributes:
        trouble: What was wrong last, or None.
    """

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._directory: Path | None = None
        self._unseen = settings.size  # bytes written since the directory was looked through
        self.trouble: str | None = None

    def get(self, key: bytes) -> Any:
        """The result of a key; ``MISSING`` if it is not here, or not whole."""
        try:
            place = self._place(key)
            try:
                return _read(key, place, self._settings.size // 2)
            except FileNotFoundError:
                return MISSING
            except Damaged as error:
                self._tell(f"an entry is damaged and was removed: {error}")
                _remove(place)
        except Exception as error:  # a file may be wrong in any way
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
            place = self._place(key)
            place.parent.mkdir(mode=0o700, exist_ok=True)
            with _written_whole(place) as file:
                for piece in pieces:
                    file.write(piece)
            self._make_room(size)
        except Exception as error:
            self._tell(f"{type(error).__name__}: {error}")
            return self.trouble
        return None

    def content(self) -> tuple[int, int]:
        """How many results there are, and their bytes."""
        sizes = [file.size for file in self._files(_SUFFIX)]
        return len(sizes), sum(sizes)

    def clear(self) -> int:
        """Remove all results, and return how many there were."""
        return sum(_remove(file.path) for file in self._files(_SUFFIX))

    def repair(self) -> int:
        """Remove what a killed process left behind, and return how many files that were.

        What other processes are writing at the time is lost to them, and a miss.
        """
        return sum(_remove(file.path) for file in self._files(_UNFINISHED))

    def _place(self, key: bytes) -> Path:
        """The file of a key."""
        if len(key) != KEY_SIZE:
            raise ValueError(f"a key has {KEY_SIZE} bytes, got {len(key)}")
        name = key.hex()
        return self._own_directory() / name[:2] / f"{name[2:]}{_SUFFIX}"

    def _own_directory(self) -> Path:
        """The directory, made and looked at when first needed: who keeps nothing has none."""
        if self._directory is None:
            directory = self._settings.directory
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _require_own(directory)
            self._directory = directory
        return self._directory

    def _files(self, suffix: str) -> Iterator[_File]:
        """The files in the cache's own directories; links and anything else are no files of it."""
        for shard in _directories(self._own_directory()):
            with suppress(OSError), os.scandir(shard) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # another process was faster
                        if entry.name.endswith(suffix) and entry.is_file(follow_symlinks=False):
                            status = entry.stat(follow_symlinks=False)
                            yield _File(status.st_mtime, status.st_size, Path(entry.path))

    def _make_room(self, written: int) -> None:
        """Remove the least recently used results where there are too many."""
        self._unseen += max(written, _BLOCK)
        if self._unseen < self._settings.size // _SHARE:
            return
        self._unseen = 0
        for file in self._files(_UNFINISHED):
            if time.time() - file.used > _ABANDONED:
                _remove(file.path)
        files = sorted(self._files(_SUFFIX))
        taken = sum(max(file.size, _BLOCK) for file in files)
        if taken <= self._settings.size:
            return
        for file in files:
            if taken <= self._settings.size * _FULL:
                break
            _remove(file.path)
            taken -= max(file.size, _BLOCK)

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


def _read(key: bytes, place: Path, most: int) -> Any:
    """The result in a file of at most so many bytes, which counts as used now.

    Raises:
        FileNotFoundError: There is none.
        Damaged: It is not the entry of the key, or no regular file.
    """
    with open(place, "rb", buffering=0, opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Damaged("it is no regular file")
        if status.st_size > most:  # as one with holes, whose bytes would fill the memory
            raise Damaged(f"its {status.st_size:,} bytes are more than half of the cache")
        found = read(key, file, status.st_size)
        os.utime(file.fileno())
        return found


def _open_at_once(path: str, flags: int) -> int:
    try:
        return os.open(path, _READ_AT_ONCE)
    except FileNotFoundError:
        raise
    except OSError as error:  # a link, a socket
        raise Damaged(str(error)) from None


@contextmanager
def _written_whole(place: Path) -> Iterator[Any]:
    """A file to write, which is put in its place when the block ends well."""
    descriptor, name = tempfile.mkstemp(suffix=_UNFINISHED, dir=place.parent)
    try:
        with open(descriptor, "wb") as file:  # a raw file may write a part, and raise nothing
            yield file
        os.replace(name, place)
    except BaseException:
        _remove(Path(name))
        raise


def _directories(parent: Path) -> list[str]:
    """The directories in which files of a cache are; no links."""
    with os.scandir(parent) as entries:
        return [
            entry.path
            for entry in entries
            if entry.name in _SHARDS and entry.is_dir(follow_symlinks=False)
        ]


def _remove(path: Path) -> bool:
    """Remove a file; False if that cannot be done."""
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


def _require_own(directory: Path) -> None:
    """Refuse a directory into which another user could put results."""
    status = directory.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(
            f"{directory} is not this user's alone, and others could put results there: "
            f"chmod 700 {directory}, or name another one"
        )
