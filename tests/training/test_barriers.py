"""BATCHED_FIT shows a Barrier all the data once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import soma_core as soma

from ..support.filters import Accumulate

X = np.arange(70.0).reshape(70, 1)


class Median(soma.Filter):
    """Cannot learn from a part of the data."""

    def meta(self) -> soma.FilterMeta:
        return super().meta().replace(stream_mode="Barrier")

    def fit(self, x: Any, y: Any = None) -> Any:
        return {"median": float(np.median(x)), "rows": len(x), "sum": float(np.sum(x))}

    def forward(self, x: Any, state: Any) -> Any:
        return x - state["median"]


class Double(soma.Filter):
    def forward(self, x: Any, state: Any) -> Any:
        return x * 2


class Shorten(soma.Filter):
    def forward(self, x: Any, state: Any) -> Any:
        return x[:1]


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 1023, 1025, 100_000])
def test_what_a_barrier_learns_does_not_depend_on_how_rows_are_cut(inline: Any, rows: int) -> None:
    inline.load({"double": Double(), "median": Median()})
    x = np.arange(float(rows)).reshape(rows, 1)
    states = [
        inline.batched_fit(["double", "median"], x, batch_size=size, epochs=2).states["median"]
        for size in (32, rows, 1 + rows // 3)
    ]
    expected = {"median": float(rows - 1), "rows": rows, "sum": float(rows * (rows - 1))}
    assert states == [expected] * 3


def test_nodes_before_a_barrier_go_through_the_data_once_and_those_after_in_each_epoch(
    inline: Any,
) -> None:
    inline.load({"before": Accumulate(), "median": Median(), "after": Accumulate()})
    told = inline.batched_fit(["before", "median", "after"], X, epochs=3, collect="all")
    assert told.states["before"] == {"rows": 70}
    assert told.states["median"]["rows"] == 70
    assert told.states["after"] == {"rows": 210}
    assert np.array_equal(told.result, X - 34.5)


def test_a_node_that_loses_rows_before_a_barrier_is_named(inline: Any) -> None:
    inline.load({"shorten": Shorten(), "median": Median()})
    complaint = "a Barrier after node 'shorten' needs one output row for each input row"
    with pytest.raises(soma.RemoteError, match=complaint):
        inline.batched_fit(["shorten", "median"], X)


def test_a_barrier_that_is_not_trainable_is_not_fitted(inline: Any) -> None:
    inline.load({"median": Median()}, trainable=False)
    inline.set_state("median", soma.NodeState(b"{}", "value", {"median": 1.0}))
    assert np.array_equal(inline.batched_fit(["median"], X, collect="all").result, X - 1.0)
