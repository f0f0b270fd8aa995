"""The slate: what an engine shows of itself while a command runs, to whoever looks from outside.

An engine is busy while it executes, and then Ray brings nothing in and nothing out. Whoever shares
its machine opens its slate, a memory file without a name, through ``/proc``: there stands whose
command runs, so that a signal ends that one and no other; what it has reported so far, and where in
the file of what is printed its part begins; and which commands that still wait were given up.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

CLIENT_SIZE = 16

_HEAD = struct.Struct(f"<{CLIENT_SIZE}sQQQ")  # client, number of its command, printed, reported
_TURN = struct.Struct(f"<{CLIENT_SIZE}sQ")
_SIZE = struct.Struct("<Q")
_SLOTS = 64
_WITHDRAWN = CLIENT_SIZE  # where the slots start, after the token
_HEAD_AT = _WITHDRAWN + _SLOTS * _TURN.size
_REPORTS_AT = _HEAD_AT + _HEAD.size


class Turn(NamedTuple):
    """One command: the client that sent it, and its number there, from 1 on."""

    client: bytes
    number: int


_NOBODY = Turn(bytes(CLIENT_SIZE), 0)


class Slate:
    """The engine's side.

    Args:
        token: Shows a reader that it found the right one; of ``CLIENT_SIZE`` bytes.

    Attributes:
        fd: Its descriptor.
    """

    def __init__(self, token: bytes) -> None:
        self.fd = os.memfd_create("soma-slate", os.MFD_CLOEXEC)
        os.pwrite(self.fd, token, 0)
        self.finish()

    def begin(self, turn: Turn, printed: int) -> bool:
        """A command is about to run, and prints from there on; whether it was given up before."""
        self._turn, self._printed, self._end = turn, printed, 0
        self._write_head()
        slot = _TURN.unpack(os.pread(self.fd, _TURN.size, _slot(turn)))
        return Turn(*slot) == turn

    def show(self, report: bytes) -> None:
        """Show what a command that runs has reported."""
        record = _SIZE.pack(len(report)) + report
        os.pwrite(self.fd, record, _REPORTS_AT + self._end)
        self._end += len(record)
        self._write_head()

    def finish(self) -> None:
        """No command runs."""
        self._turn, self._printed, self._end = _NOBODY, 0, 0
        self._write_head()
        os.ftruncate(self.fd, _REPORTS_AT)

    def _write_head(self) -> None:
        os.pwrite(self.fd, _HEAD.pack(*self._turn, self._printed, self._end), _HEAD_AT)


class SlateReader:
    """The side of one who looks on.

    Args:
        pid: The engine's process.
        fd: Its descriptor there.
        token: What must stand on it.

    Raises:
        OSError: It cannot be opened, or is another one.
    """

    def __init__(self, pid: int, fd: int, token: bytes) -> None:
        self._fd = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        if os.pread(self._fd, CLIENT_SIZE, 0) != token:
            self.close()
            raise OSError(f"process {pid} is not the engine that it was taken for")

    def runs(self, turn: Turn) -> bool:
        """Whether that command runs now."""
        return self._head()[:2] == turn

    def withdraw(self, turn: Turn) -> None:
        """Let a command not be executed when its turn comes."""
        os.pwrite(self._fd, _TURN.pack(*turn), _slot(turn))

    def shown(self, turn: Turn, seen: int) -> tuple[list[bytes], int] | None:
        """What a command has reported, beyond what was seen, and from where on it prints.

        Returns:
            None if it does not run.
        """
        *now, printed, size = self._head()
        if tuple(now) != turn:
            return None
        data = os.pread(self._fd, size, _REPORTS_AT) if size else b""
        if not self.runs(turn):  # it ended meanwhile, and another one may be writing
            return None
        return _records(data)[seen:], printed

    def close(self) -> None:
        """Look no more; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _head(self) -> tuple[bytes, int, int, int]:
        client, number, printed, size = _HEAD.unpack(os.pread(self._fd, _HEAD.size, _HEAD_AT))
        return client, number, printed, size


def _slot(turn: Turn) -> int:
    return _WITHDRAWN + turn.client[0] % _SLOTS * _TURN.size


def _records(data: bytes) -> list[bytes]:
    found, position = [], 0
    while position < len(data):
        (size,) = _SIZE.unpack_from(data, position)
        position += _SIZE.size
        found.append(data[position : position + size])
        position += size
    return found
