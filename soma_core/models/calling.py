"""Whether a function can be called with some arguments, as far as its signature says."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def accepts(function: Callable[..., Any], *args: Any, unknown: bool = True) -> bool:
    """Whether a function can be called with these arguments.

    Args:
        function: The function.
        args: The arguments.
        unknown: What to return where its signature is not known.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return unknown
    try:
        signature.bind(*args)
    except TypeError:
        return False
    return True
