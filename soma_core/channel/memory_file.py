"""Memory files: anonymous memory that two processes map, made here or checked when it comes."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import sys
import tempfile

import numpy as np

from soma_core.errors import ErrorCode
from soma_core.wire.frames import FrameError

ROUND = 1 << 16
"""Memory files have a multiple of so many bytes, of which the last ones may be empty."""

_SEALS = getattr(fcntl, "F_SEAL_SHRINK", 0) | getattr(fcntl, "F_SEAL_GROW", 0)
_POPULATE = getattr(mmap, "MAP_POPULATE", 0)
_REMOVE = getattr(mmap, "MADV_REMOVE", None)
_BLOCK = 512  # bytes: the unit of st_blocks


class Mapping:
    """A memory file, mapped. Unlike the mappings of :mod:`mmap`, it keeps no descriptor.

    Args:
        fd: The file, which stays the caller's.
        size: Its size.
        populate: Whether to have all of its pages mapped at once.

    Attributes:
        size: Its size.
        memory: Its bytes; whatever is laid over them keeps it alive.

    Raises:
        OSError: There is no memory for it, or there are too many mappings.
    """

    def __init__(self, fd: int, size: int, *, populate: bool = False) -> None:
        flags = mmap.MAP_SHARED | (_POPULATE if populate else 0)
        found = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0)
        if found in (None, _FAILED):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.size = size
        self._place = (found, size)
        self._unmap = _libc.munmap
        self.__array_interface__ = {
            "data": (found, False),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }

    @property
    def memory(self) -> memoryview:
        return np.asarray(self).data

    def empty(self) -> None:
        """Let go of the memory; what is read there afterwards is zeros."""
        if _REMOVE is not None:
            _libc.madvise(*self._place, _REMOVE)

    def __del__(self) -> None:
        if hasattr(self, "_place"):
            self._unmap(*self._place)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
    *(ctypes.c_int, ctypes.c_int, ctypes.c_int64),
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED = ctypes.c_void_p(-1).value


def create_memory_file(size: int) -> int:
    """An anonymous memory file of a fixed size.

    Raises:
        OSError: There is no memory, or no descriptor.
    """
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            return os.dup(file.fileno())
    fd = os.memfd_create("soma", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def copy_memory_file(fd: int, size: int) -> bytearray:
    """What a memory file holds.

    Raises:
        OSError: It cannot be read.
    """
    content = bytearray(size)
    done = 0
    while done < size:
        done += os.preadv(fd, [memoryview(content)[done:]], done)
    return content


def check_memory_file(fd: int, size: int) -> None:
    """Make sure that a file has its size, and keeps it, and that its sender has filled it.

    Reading another one could end in SIGBUS, or take memory that nobody has sent.
    """
    status = os.fstat(fd)
    if status.st_size != size or size <= 0:
        raise malformed("a region of shared memory does not have the size that was announced")
    if not sys.platform.startswith("linux"):
        return
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise malformed("a descriptor came that is not a memory file") from None
    if seals & _SEALS != _SEALS:
        raise malformed("a memory file came that is not sealed against shrinking and growing")
    if status.st_blocks * _BLOCK < size - ROUND:
        raise malformed(
            f"a memory file of {size:,} bytes came; its sender has filled "
            f"{status.st_blocks * _BLOCK:,} of them"
        )


def malformed(message: str) -> FrameError:
    """What to raise where the other side breaks the rules."""
    return FrameError(ErrorCode.MALFORMED, message)
