"""The work that every contestant does: a filter with a state, an array in, an array out."""

from __future__ import annotations

from typing import Any

import numpy as np

from soma_core.models.filters import Filter

STATE = {"factor": 3.0}


def compute(x: np.ndarray[Any, Any], state: dict[str, float]) -> np.ndarray[Any, Any]:
    """What the filter computes; cheap, so that the way there and back is what is measured."""
    result: np.ndarray[Any, Any] = x * state["factor"]
    return result


class Work(Filter):
    """The work as a filter."""

    def fit(self, x: Any, y: Any = None) -> dict[str, float]:
        return STATE

    def forward(self, x: Any, state: Any) -> Any:
        return compute(x, state)


def check(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> None:
    """Every result is checked, outside of the time measured.

    Raises:
        AssertionError: A contestant returned a wrong result.
    """
    if not np.array_equal(y, compute(x, STATE)):
        raise AssertionError("a contestant returned a wrong result")
