"""Missing modules: which module of this process a worker lacks, found in its error."""

from __future__ import annotations

import sys
from types import ModuleType

from soma_core.errors import ErrorCode, RemoteError

__all__ = ["missing_module"]


def missing_module(error: RemoteError) -> ModuleType | None:
    """The module of this process that the worker lacks, if the command failed because of that."""
    unread = error.code in (ErrorCode.LOAD_FAILED, ErrorCode.INVALID_COMMAND)
    if unread and error.remote_type in ("ModuleNotFoundError", "AttributeError", "ImportError"):
        return _named_module(str(error))
    return None


def _named_module(text: str) -> ModuleType | None:
    """The module of this process that an unpickling error names: the outermost package of it."""
    for quoted in text.split("'")[1::2]:
        module = sys.modules.get(quoted.partition(".")[0])
        known = sys.stdlib_module_names | {"soma_core"}  # a worker has these, of its own version
        if module is not None and module.__name__ not in known:
            return module
    return None
