"""Whether two configurations are the same: types, values and the estimators inside."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["alike"]


def alike(one: Any, other: Any) -> bool:
    """Whether two values are equal to the type, estimators by their parameters."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if hasattr(one, "get_params") and not isinstance(one, type):
        return alike(one.get_params(deep=False), other.get_params(deep=False))
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, np.ndarray):
        same = one.dtype == other.dtype and one.shape == other.shape
        return same and alike(one.ravel().tolist(), other.ravel().tolist())
    if isinstance(one, np.random.RandomState):
        return alike(one.get_state(), other.get_state())
    if hasattr(one, "__dict__"):
        return alike(vars(one), vars(other))
    compared = isinstance(one, bool | int | float | str | np.generic | slice | range)
    return not compared or bool(one == other) or (one != one and other != other)
