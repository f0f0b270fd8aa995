"""The file of a recording: nobody else's, whole lines only, and never larger than its limit."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import weakref
from pathlib import Path
from typing import Any

from soma_core.channel.forks import close_in_forked_child
from soma_core.client.recording.entries import (
    Entry,
    LeftOut,
    Section,
    read_line,
    with_buffers,
    write_entry,
    write_section,
)
from soma_core.errors import ProtocolError

_LONGEST_SECTION = 1 << 20


class RecordingFull(Exception):
    """There is no room for another entry."""


def rotated(path: Path) -> Path:
    """Where the recording that was at a path before is kept: ``flight.jsonl.1``."""
    return path.with_name(path.name + ".1")


def check_replaceable(path: Path) -> None:
    """Make sure that what is at a path, if anything, may be moved aside or replaced.

    Raises:
        ValueError: It is not a recording, or one that is being written; nothing was touched.
    """
    for existing in (path, rotated(path)):
        _check(existing)


def _check(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(f"record: {path} is a symbolic link, which is not followed") from None
        raise ValueError(f"record: cannot read {path}: {error.strerror}") from error
    try:
        if not _is_recording(descriptor):
            raise ValueError(
                f"record: {path} exists and is not a recording; it was left as it is. Name "
                "another file, or remove it"
            )
        _lock(descriptor, path)
    finally:
        os.close(descriptor)


def _is_recording(descriptor: int) -> bool:
    """Whether a file is empty, or begins with the line of a section."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return False
    start = os.pread(descriptor, _LONGEST_SECTION, 0)
    if not start:
        return True
    try:
        return isinstance(read_line(start.partition(b"\n")[0]), Section)
    except ProtocolError:
        return False


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"record: {path} is being written for another worker; give each a file of its own"
        ) from None
    except OSError:
        return  # a file system without locks: there, nobody can tell


class RecordingFile:
    """A new file, readable by its owner alone; a recording that was there becomes ``….1``.

    Raises:
        ValueError: It cannot be written, or something else is there.
    """

    def __init__(self, path: Path, limit: int) -> None:
        check_replaceable(path)
        self._left = limit
        self._size = 0
        try:
            if path.exists():
                path.replace(rotated(path))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise ValueError(f"record: cannot write {path}: {error.strerror}") from error
        self._finalizer = weakref.finalize(self, os.close, self._descriptor)
        _lock(self._descriptor, path)
        close_in_forked_child(self)

    def begin(self, section: Section) -> None:
        """Write the line of a section."""
        self._write(write_section(section))

    def add(self, entry: Entry) -> None:
        """Write an entry, without those of its buffers that do not fit any more.

        Raises:
            RecordingFull: There is no room even so.
            OSError: It could not be written; the file ends with the entry before.
        """
        room = self._left
        buffers: list[Any] = []
        for buffer in entry.message.buffers:
            size = 0 if isinstance(buffer, LeftOut) else memoryview(buffer).nbytes * 4 // 3 + 8
            buffers.append(buffer if size <= room else LeftOut.of(buffer))
            room -= size if size <= room else 0
        self._write(write_entry(with_buffers(entry, buffers)))

    def _write(self, line: bytes) -> None:
        if len(line) > self._left:
            raise RecordingFull
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except BaseException:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(line)
        self._left -= len(line)

    def close(self) -> None:
        """Close it; a second call does nothing."""
        self._finalizer()
