"""What a session is doing, in memory that its worker writes and the daemon reads.

So the daemon can say what has run for an hour, and writing it costs the worker no system call.
The worker counts up before it writes and again after it; who reads an odd number, or two
different ones, has read too early and looks again.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from typing import NamedTuple

_COUNT = struct.Struct("@Q")
_ENTRY = struct.Struct("@IdHH")
_TEXT = _COUNT.size + _ENTRY.size
_SIZE = mmap.PAGESIZE
_LONGEST_TEXT = 400  # bytes of a command's name or a node's id that are shown
_LOOKS = 1000


class Activity(NamedTuple):
    """The command that a session runs.

    Attributes:
        client: The number of the client that sent it.
        command: Its name.
        node_id: The node that it is for, or None.
        seconds: How long it has been running.
    """

    client: int
    command: str
    node_id: str | None
    seconds: float


class SharedActivity:
    """One end of that memory, which is in a file that both have; it is not kept open."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _SIZE)
        self._writes = 0

    @staticmethod
    def new_file() -> int:
        """A descriptor of a new memory file, for both ends.

        Raises:
            OSError: There is no memory or no descriptor, or this system has no such files.
        """
        if not hasattr(os, "memfd_create"):
            raise OSError("sessions need Linux")
        descriptor = os.memfd_create("soma-activity", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _SIZE)
        return descriptor

    def begin(self, client: int, command: str, node_id: str | None) -> None:
        """Write what runs from now on; client numbers start at 1."""
        name = command.encode()[:_LONGEST_TEXT]
        node = (node_id or "").encode("utf-8", "replace")[:_LONGEST_TEXT]
        entry = _ENTRY.pack(client, time.monotonic(), len(name), len(node))
        self._write(entry + name + node)

    def end(self) -> None:
        """Write that nothing runs."""
        self._write(_ENTRY.pack(0, 0.0, 0, 0))

    def _write(self, content: bytes) -> None:
        memory = self._memory
        self._writes += 1
        _COUNT.pack_into(memory, 0, self._writes)
        memory[_COUNT.size : _COUNT.size + len(content)] = content
        self._writes += 1
        _COUNT.pack_into(memory, 0, self._writes)

    def read(self) -> Activity | None:
        """What runs; None if nothing does."""
        content = self._content()
        client, since, name_size, node_size = _ENTRY.unpack_from(content, _COUNT.size)
        if client == 0:
            return None
        name = content[_TEXT : _TEXT + name_size].decode("utf-8", "replace")
        node = content[_TEXT + name_size :][:node_size].decode("utf-8", "replace")
        return Activity(client, name, node or None, max(0.0, time.monotonic() - since))

    def _content(self) -> bytes:
        for _ in range(_LOOKS):
            (before,) = _COUNT.unpack_from(self._memory, 0)
            content = self._memory[:]
            if before % 2 == 0 and _COUNT.unpack_from(self._memory, 0) == (before,):
                break
        return content  # torn, if a worker was killed as it wrote

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()
