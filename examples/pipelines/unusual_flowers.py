"""The most unusual flowers of each species of iris: DataFrames in, DataFrames out.

    python examples/pipelines/unusual_flowers.py

A worker learns what is usual of each species, and measures every flower against its own kind. The
frames, and what was learned of them, travel in Arrow's format: categories, index and column names
arrive as they were sent, and no pickle is made of them. Needs soma-codecs-arrow and pandas.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

import soma_core as soma

FLOWERS = Path(__file__).with_name("iris.csv")
SHOWN = 3


class Unusual(soma.Filter):
    """How many deviations each row lies from the mean of its own group."""

    by: str

    def fit(self, x: Any, y: Any = None) -> Any:
        groups = x.groupby(self.by, observed=True)
        return {"mean": groups.mean(), "deviation": groups.std()}

    def forward(self, x: Any, state: Any) -> Any:
        measured = x.set_index(self.by)
        away = (measured - state["mean"].loc[measured.index]) / state["deviation"].loc[
            measured.index
        ]
        return away.set_axis(x.index).assign(
            far=(away**2).sum(axis=1).to_numpy() ** 0.5, kind=x[self.by].to_numpy()
        )


def read_flowers() -> pd.DataFrame:
    """The flowers by name, their species a category."""
    flowers = pd.read_csv(FLOWERS).drop(columns="class").astype({"species": "category"})
    flowers.index = pd.Index([f"flower {number}" for number in range(1, len(flowers) + 1)])
    return flowers


def picture(deviations: float) -> str:
    """A deviation as a mark left or right of the middle."""
    place = max(0, min(12, round(6 + 2 * deviations)))
    marks = ["·"] * 13
    marks[6], marks[place] = "│", "●"
    return "".join(marks)


def main() -> None:
    """Learn, measure and print the table."""
    flowers = read_flowers()
    with soma.connect("stdio", filters={"unusual": Unusual(by="species")}, timeout=60.0) as worker:
        usual = worker.fit("unusual", flowers)
        away = worker.forward("unusual", flowers)
    measures = list(usual["mean"].columns)
    table = Table("species", "flower", "far", *(name.replace("_", " ") for name in measures))
    for species, group in away.groupby("kind", observed=True):
        for name, flower in group.nlargest(SHOWN, "far").iterrows():
            marks = [picture(flower[measure]) for measure in measures]
            table.add_row(str(species), str(name), f"{flower['far']:.1f}", *marks)
        table.add_section()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
