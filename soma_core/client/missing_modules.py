"""Missing modules: which module of this process a worker lacks, found in its error."""

from __future__ import annotations

import re
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType

from soma_core.errors import ErrorCode, RemoteError

_TYPES = ("ModuleNotFoundError", "AttributeError", "ImportError")
_LACKS = re.compile(
    r"No module named '(?P<name>\w+)"
    r"|module '(?P<of>\w+)[\w.]*'(?: from .*)? has no attribute '"
    r"|Can't get attribute '[^']*' on <module '(?P<on>\w+)"
    r"|cannot import name '[^']*' from '(?P<origin>\w+)"
)
"""How Python says that a module is not there, or lacks something."""


def missing_module(error: RemoteError) -> ModuleType | None:
    """The module of this process that the worker lacks, if the command failed because of that.

    Only one that can travel whole: a package that is partly compiled must be installed there.
    """
    unread = error.code in (ErrorCode.LOAD_FAILED, ErrorCode.INVALID_COMMAND)
    if not unread or error.remote_type not in _TYPES:
        return None
    found = _LACKS.search(str(error))
    name = found[found.lastindex or 0] if found else ""  # the outermost package
    known = sys.stdlib_module_names | {"soma_core"}  # a worker has these, of its own version
    return None if name in known or _is_compiled(name) else sys.modules.get(name)


def _is_compiled(name: str) -> bool:
    """Whether a package, or a module of it, is no Python code."""
    files = (
        getattr(module, "__file__", None) or ""
        for inner, module in list(sys.modules.items())
        if inner.partition(".")[0] == name
    )
    return any(file.endswith(tuple(EXTENSION_SUFFIXES)) for file in files)
