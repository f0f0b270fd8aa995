"""What goes wrong when a worker is started: a StartFailed that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from soma_core.errors import StartFailed

_REMEDIES = {
    errno.EMFILE: "close workers or files that are not needed, or raise the limit (ulimit -n)",
    errno.ENFILE: "the whole system has no more files to open (sysctl fs.file-max)",
    errno.EAGAIN: "the user may have no more processes: end some, or raise the limit (ulimit -u)",
    errno.ENOMEM: "the system has no memory for it: close workers, or add memory",
}
_NOT_THERE = (FileNotFoundError, NotADirectoryError, PermissionError)
_CHECK = "check the options that say what is started, and where (python, command, cwd, path)"


@contextmanager
def starting(what: str) -> Iterator[None]:
    """Within the block, an error of the system says what to do about it.

    Args:
        what: What is tried: ``"start python -m acme"``.

    Raises:
        StartFailed: An OSError or ValueError was raised in the block.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        remedy = _CHECK if isinstance(error, _NOT_THERE) else _REMEDIES.get(number or 0)
        hint = f"; {remedy}" if remedy else ""
        raise StartFailed(f"cannot {what}: {error}{hint}") from error
