"""Modules: which module of this process a file is of."""

from __future__ import annotations

import sys

__all__ = ["module_of"]


def module_of(filename: str) -> str | None:
    """The name of the module whose file this is, as tracebacks spell it; None if none."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == filename:
            return name
    return None
