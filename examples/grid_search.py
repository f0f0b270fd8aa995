"""A grid search over a pool of workers: on this machine, or on a Ray cluster by one word.

    python examples/grid_search.py
    python examples/grid_search.py --transport ray

Needs scikit-learn, and for Ray soma-transport-ray. With ``RAY_ADDRESS`` set, the same command uses
that cluster. Each worker is sent the data once; then each call carries two numbers there and one
back.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import soma_core as soma

WIDTHS = [0.0002, 0.001, 0.005, 0.025]
PENALTIES = [0.1, 1.0, 10.0]


class Score(soma.Filter):
    """Keeps the data as its state, and scores a configuration by cross-validation."""

    folds: int = 3

    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        return {"x": x, "y": y}

    def forward(self, x: tuple[float, float], state: Any) -> float:
        from sklearn.model_selection import cross_val_score
        from sklearn.svm import SVC

        model = SVC(gamma=x[0], C=x[1])
        return float(np.mean(cross_val_score(model, state["x"], state["y"], cv=self.folds)))


def main() -> None:
    """Search, and print the accuracies as a grid."""
    from sklearn.datasets import load_digits

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", default="stdio")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    x, y = load_digits(return_X_y=True)
    grid = [(width, penalty) for width in WIDTHS for penalty in PENALTIES]
    with soma.WorkerPool(options.transport, options.workers, filters={"score": Score()}) as pool:
        pool.fit("score", x[:900], y[:900])
        scores = dict(zip(grid, pool.map("score", grid), strict=True))
    show(scores, options.transport)


def show(scores: dict[tuple[float, float], float], transport: str) -> None:
    """Print a row for each gamma and a column for each C; the best one stands out."""
    best = max(scores, key=lambda one: scores[one])
    table = Table("gamma", *(f"C = {penalty:g}" for penalty in PENALTIES))
    table.title = f"Accuracy on digits, over {transport}"
    for width in WIDTHS:
        cells = [
            f"[bold reverse]{scores[width, penalty]:.3f}[/]"
            if (width, penalty) == best
            else f"{scores[width, penalty]:.3f}"
            for penalty in PENALTIES
        ]
        table.add_row(f"{width:g}", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
