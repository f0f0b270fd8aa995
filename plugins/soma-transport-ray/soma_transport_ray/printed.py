"""What an engine prints: a file in the folder of Ray's logs, which the host reads as it grows.

It is a file of its own: what is in the one that Ray makes for the process, Ray may show as well.
"""

from __future__ import annotations

import io
import os
import tempfile
import threading
from contextlib import suppress
from typing import Protocol

from soma_core.transport import close_in_forked_child

_CHUNK = 1 << 20  # bytes that are read at once
_ENDLESS = 1 << 62

Span = tuple[int, int]
"""From where to where in the file."""


class Printed:
    """The engine's side: stdout and stderr of this process go to the file from now on.

    Attributes:
        path: The file.
    """

    def __init__(self) -> None:
        logs = os.path.dirname(os.readlink("/proc/self/fd/2"))
        folder = logs if os.path.isdir(logs) else tempfile.gettempdir()
        name = f"soma-{os.getpid()}-{os.urandom(4).hex()}.log"
        self.path = os.path.join(folder, name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, 0o600)
        for stream in (1, 2):
            os.dup2(self._fd, stream)
        self._taken = 0

    @property
    def start(self) -> int:
        """Where the part begins that no reply has told of."""
        return self._taken

    def take(self) -> Span:
        """The part that no reply has told of; the next one begins at its end."""
        start, self._taken = self._taken, os.fstat(self._fd).st_size
        return start, self._taken


def read(fd: int, span: Span) -> bytes:
    """Some of a part of an open file; nothing where there is none."""
    start, end = span
    return os.pread(fd, min(end - start, _CHUNK), start)


class _Reader(Protocol):
    def printed(self, span: Span) -> bytes:
        """Some of a part of the file; nothing where there is none. Never raises."""


class Printout:
    """The host's side: copies the file to the pipe that is read as the worker's output.

    Args:
        reader: Reads the file.
        pipe: The end of the pipe to write to, of which a copy is made.
        whole: Whether all that the engine prints is for this host, or that of its commands alone.
    """

    def __init__(self, reader: _Reader, pipe: int, *, whole: bool) -> None:
        self._reader = reader
        self._pipe = io.FileIO(os.dup(pipe), "w")
        self._seen = 0 if whole else _ENDLESS
        self._lock = threading.Lock()  # whoever ends the worker reads the rest
        close_in_forked_child(self._pipe)

    def show(self, span: Span) -> None:
        """Show a part, but for what of it was shown before."""
        start, end = span
        if start == end:
            return
        with self._lock:
            self._seen = start if self._seen == _ENDLESS else max(start, self._seen)
            self._copy(end)

    def finish(self) -> None:
        """Show the last that the engine printed, which has ended, and nothing more."""
        with self._lock:
            self._copy(_ENDLESS)
        self.close()

    def close(self) -> None:
        """Show nothing more; a second call does nothing."""
        with self._lock:
            self._pipe.close()

    def _copy(self, end: int) -> None:
        while self._seen < end and not self._pipe.closed:
            data = self._reader.printed((self._seen, end))
            if not data:
                return
            self._seen += len(data)
            with suppress(BrokenPipeError):  # nobody reads it any more
                while data:
                    data = data[self._pipe.write(data) or 0 :]
