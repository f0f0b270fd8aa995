"""Functions: those that may be configured by their paths, since they do nothing but compute."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

_MODULES = ("numpy", "sklearn.feature_selection", "sklearn.metrics")
_NUMPY_REDUCTIONS = frozenset({"max", "mean", "median", "min", "std", "sum", "var"})
_NO_COMPUTATION = frozenset({"check_scoring", "get_scorer", "get_scorer_names", "make_scorer"})


def is_function_path(path: str) -> bool:
    """Whether a text is a path in a module whose functions may be named."""
    return path.rpartition(".")[0] in _MODULES


def function_path(function: Callable[..., Any]) -> str | None:
    """The path by which a function can be configured, such as ``numpy.mean``; None without one."""
    name = getattr(function, "__name__", "")
    for module in _MODULES:
        if _found(module, name) is function:
            return f"{module}.{name}"
    return None


def function_at(path: str, parameter: str = "function") -> Callable[..., Any]:
    """The function at a path, such as ``sklearn.metrics.f1_score``.

    Raises:
        ValueError: It is none that can be configured.
    """
    module, _, name = path.rpartition(".")
    function = _found(module, name) if module in _MODULES else None
    if function is None:
        raise ValueError(
            f"{parameter}={path!r} names no function that can be configured by name; use a "
            "function of sklearn.feature_selection or sklearn.metrics, a numpy ufunc such as "
            f"'numpy.log1p', or one of numpy's {', '.join(sorted(_NUMPY_REDUCTIONS))}"
        )
    return function


def _found(module: str, name: str) -> Callable[..., Any] | None:
    """A function by its name; None if there is none, or it does more than compute."""
    found: Any = getattr(importlib.import_module(module), name, None)
    if module == "numpy":
        computes = isinstance(found, np.ufunc) or name in _NUMPY_REDUCTIONS
    else:
        computes = inspect.isfunction(found) and name not in _NO_COMPUTATION
    return found if computes else None
