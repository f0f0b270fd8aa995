"""A sweep over a slow step and a quick one, computed once: soma-cache keeps the results.

    python examples/pipelines/cached_sweep.py                       # forgets at its end
    SOMA_CACHE_DIR=~/.cache/soma python examples/pipelines/cached_sweep.py

Digits are smoothed at several widths, which is slow, and told apart by their neighbours. The second
sweep runs in another worker and finds everything; the third one adds a width, and computes what is
new. Needs soma-cache and scikit-learn.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import soma_core as soma

WIDTHS = [0.4, 0.8, 1.6]
NEIGHBOURS = [1, 5]


class Smooth(soma.Filter):
    """Images blurred by a Gaussian, one pixel's weight after the other."""

    width: float

    def forward(self, x: Any, state: Any) -> Any:
        rows, columns = np.indices((8, 8)).reshape(2, 64)
        squares = np.subtract.outer(rows, rows) ** 2 + np.subtract.outer(columns, columns) ** 2
        weights = np.exp(-squares / (2 * self.width**2))
        weights /= weights.sum(axis=1, keepdims=True)
        return np.stack([(image[:, None] * weights).sum(axis=0) for image in x])


class Neighbours(soma.Filter):
    """The most frequent label of the nearest images."""

    count: int

    def fit(self, x: Any, y: Any = None) -> Any:
        return {"x": x, "y": y}

    def forward(self, x: Any, state: Any) -> Any:
        known = state["x"]
        squares = (x**2).sum(1)[:, None] - 2 * x @ known.T + (known**2).sum(1)
        nearest = np.argsort(squares, axis=1, kind="stable")[:, : self.count]
        votes = state["y"][nearest]
        return np.array([np.bincount(row).argmax() for row in votes])


def sweep(directory: str, widths: list[float]) -> tuple[dict[tuple[float, int], float], Any, float]:
    """The share of right answers by width and count, what the cache did, and the seconds."""
    images, labels = load_digits(return_X_y=True)
    train, test = slice(0, 1000), slice(1000, None)
    filters: dict[str, Any] = {f"smooth {width}": Smooth(width=width) for width in widths}
    filters |= {f"nearest {count}": Neighbours(count=count) for count in NEIGHBOURS}
    right = {}
    plugins = {"cache": {"directory": directory}}
    with soma.connect("stdio", filters=filters, plugins=plugins) as worker:
        started = time.perf_counter()
        for width in widths:
            smoothed = worker.forward(f"smooth {width}", images)
            for count in NEIGHBOURS:
                node = f"nearest {count}"
                worker.fit(node, smoothed[train], labels[train], return_state=False)
                found = worker.forward(node, smoothed[test])
                right[width, count] = float(np.mean(found == labels[test]))
        return right, worker.status().plugins["cache"], time.perf_counter() - started


def main() -> None:
    """Sweep three times, and print two tables."""
    with tempfile.TemporaryDirectory() as forgotten:
        directory = os.environ.get("SOMA_CACHE_DIR", forgotten)
        sweeps = {
            "the first": sweep(directory, WIDTHS),
            "the same again": sweep(directory, WIDTHS),
            "with a width more": sweep(directory, [*WIDTHS, 2.4]),
        }
    price = Table("sweep", "computed", "found", "seconds")
    for name, (_, told, seconds) in sweeps.items():
        price.add_row(name, str(told["misses"]), str(told["hits"]), f"{seconds:.2f}")
    right = sweeps["with a width more"][0]
    quality = Table("right answers", *(f"{count} nearest" for count in NEIGHBOURS))
    for width in dict.fromkeys(width for width, _ in right):
        row = [f"{right[width, count]:.1%}" for count in NEIGHBOURS]
        quality.add_row(f"width {width}", *row)
    console = Console(width=80)
    console.print(price, quality)


if __name__ == "__main__":
    main()
