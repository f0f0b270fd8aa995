"""Digits: scikit-learn's bundled images of handwritten digits, read without scikit-learn."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from soma_core.cli.console import CommandFailed

SIDE = 8
"""An image has this many rows of this many pixels, each from 0 to 16."""

_TEST_ROWS = 360
_SEED = 0

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Digits:
    """The images as rows of pixels and the digits that they show, in two parts."""

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array

    def accuracy(self, predicted: Array) -> float:
        """The share of the test images that were read right."""
        return float((predicted == self.y_test).mean())


def load_digits() -> Digits:
    """Read the images, and set 360 of them aside for the test.

    Only the file of the installed scikit-learn is used: the host of this demo imports neither
    scikit-learn nor torch.

    Raises:
        CommandFailed: The file is not where scikit-learn keeps it.
    """
    path = _path()
    try:
        with gzip.open(path, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    except OSError as error:
        raise CommandFailed(f"cannot read the digits of scikit-learn: {error}") from None
    table = np.random.default_rng(_SEED).permutation(table)
    x, y = np.ascontiguousarray(table[:, :-1]), table[:, -1].astype(np.int64)
    return Digits(x[_TEST_ROWS:], y[_TEST_ROWS:], x[:_TEST_ROWS], y[:_TEST_ROWS])


def _path() -> Path:
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise CommandFailed("scikit-learn is not installed; run: pip install soma-filters-sklearn")
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
