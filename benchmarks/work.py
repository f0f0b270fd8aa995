"""The work that every contestant does: a filter with a state, an array in, an array out."""

from __future__ import annotations

from typing import Any

import numpy as np

import soma_core as soma

STATE = {"factor": 3.0}


def compute(x: np.ndarray[Any, Any], state: dict[str, float]) -> np.ndarray[Any, Any]:
    """What the filter computes; cheap, so that the way there and back is what is measured."""
    return x * state["factor"]


class Work(soma.Filter):
    """The work as a filter, for soma and for the original's daemon."""

    def fit(self, x: Any, y: Any = None) -> dict[str, float]:
        return STATE

    def forward(self, x: Any, state: Any) -> Any:
        return compute(x, state)


class ListWork:
    """The work for the original's daemon, which hands lists to its filters."""

    def fit(self, x: Any, y: Any = None) -> dict[str, float]:
        return STATE

    def forward(self, x: list[float], state: Any) -> list[float]:
        return [value * state["factor"] for value in x]


def check(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> None:
    """Every result is checked, outside of the time measured."""
    if not np.array_equal(y, x * STATE["factor"]):
        raise AssertionError("a contestant returned a wrong result")
