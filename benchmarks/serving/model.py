"""The model that is served: an MLP of 64-512-512-10 in numpy, one row a call."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

import soma_core as soma

__all__ = ["Served", "forward", "row"]

SIZES = (64, 512, 512, 10)

Array = NDArray[np.float32]


def _weights() -> list[Array]:
    random = np.random.default_rng(0)
    return [random.normal(0.0, 0.05, pair).astype(np.float32) for pair in pairwise(SIZES)]


WEIGHTS = _weights()


def forward(x: Array) -> Array:
    """What the model answers to some rows."""
    *hidden, last = WEIGHTS
    for weight in hidden:
        x = np.maximum(x @ weight, 0.0)
    return x @ last


def row(number: int) -> Array:
    """The row that a caller sends."""
    return np.full((1, SIZES[0]), number % 100 / 100.0, np.float32)


class Served(soma.Filter):
    """The model as a filter."""

    def forward(self, x: Any, state: Any) -> Any:
        return forward(x)

    def meta(self) -> soma.FilterMeta:
        return super().meta().replace(rowwise=True)
