"""Regular files, opened at once: another kind might wait for ever, or hold more than any memory."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file to read it.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is a pipe, a device or the like.
    """
    file = open_at_once(path)
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise ValueError("it is no regular file")


def open_at_once(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file to read it, a pipe too: one into which nobody writes is empty."""
    file = open(Path(path), "rb", opener=_without_waiting)  # noqa: SIM115 - the caller closes it
    os.set_blocking(file.fileno(), True)
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
