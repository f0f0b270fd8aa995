"""Tables travel to a worker and back where pickles are refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import soma_core as soma
from soma_core import Worker

FILTER = """
import soma_core as soma

class Ranked(soma.Filter):
    '''Adds a column, and remembers a table.'''

    def fit(self, x, y=None):
        return {"seen": x, "means": x.mean(numeric_only=True)}

    def forward(self, x, state):
        if not state:
            return x
        return x.assign(rank=x["a"].rank() + state["means"]["a"])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a distribution with a filter is installed."""
    path = tmp_path_factory.mktemp("installed")
    (path / "ranked.py").write_text(FILTER)
    info = path / "ranked-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ranked\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[soma.filters]\nranked.Ranked = ranked:Ranked\n")
    return path


@pytest.fixture(scope="module")
def worker(installed: Path) -> Iterator[Worker]:
    """A worker that takes no pickles, with a filter from a distribution."""
    paths = [str(installed), *filter(None, [os.environ.get("PYTHONPATH")])]
    with soma.connect(
        "stdio",
        filters={"ranked": ("ranked.Ranked", {})},
        pickle="never",
        timeout=60.0,
        env={"PYTHONPATH": os.pathsep.join(paths)},
    ) as worker:
        yield worker


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {"a": np.arange(20_000.0), "t": "x", "c": pd.Categorical(["u", "v"] * 10_000)},
        index=pd.date_range("2024-01-01", periods=20_000, freq="min"),
    )


def test_data_states_and_results_may_be_tables(worker: Worker, frame: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(worker.forward("ranked", frame, {}), frame)
    state = worker.fit("ranked", frame)
    pd.testing.assert_frame_equal(state["seen"], frame)
    found = worker.forward("ranked", frame)
    assert found["rank"].tolist() == (frame["a"].rank() + state["means"]["a"]).tolist()
    table = pa.table({"a": np.arange(10_000)})
    assert worker.forward("ranked", table, {}).equals(table)


def test_periods_and_intervals_arrive_in_a_worker_that_never_saw_any(worker: Worker) -> None:
    for column in (pd.period_range("2024", periods=3, freq="M"), pd.interval_range(0, 3)):
        sent = pd.Series(column)
        pd.testing.assert_series_equal(worker.forward("ranked", sent, {}), sent)


def test_a_result_is_its_receivers_own_and_stays_as_it_is(
    worker: Worker, frame: pd.DataFrame
) -> None:
    kept = worker.forward("ranked", frame, {})
    kept.iloc[0, 0] = -1.0
    table = worker.forward("ranked", pa.table({"a": np.arange(50_000)}), {})
    for number in range(20):  # their memory would be used again if nobody held it
        worker.forward("ranked", frame.assign(a=number), {})
        worker.forward("ranked", pa.table({"a": np.full(50_000, number)}), {})
    assert (kept.iloc[0, 0], kept["a"].iloc[1:].tolist()) == (-1.0, frame["a"].iloc[1:].tolist())
    assert table["a"].to_pylist() == list(range(50_000))


def test_what_is_no_table_of_arrow_names_its_column(worker: Worker) -> None:
    odd = pd.DataFrame({"fine": [1], "odd": pd.Series([{1, 2}], dtype=object)})
    with pytest.raises(soma.ProtocolError, match="column 'odd': dtype object, holding set"):
        worker.forward("ranked", odd, {})


def test_inline_hands_over_no_memory_of_the_host(frame: pd.DataFrame) -> None:
    class Zeroed(soma.Filter):
        def forward(self, x: Any, state: Any) -> Any:
            x.iloc[:, 0] = 0.0
            return x

    with soma.connect("inline", filters={"zeroed": Zeroed()}) as worker:
        assert worker.forward("zeroed", frame)["a"].sum() == 0.0
    assert frame["a"].iloc[1] == 1.0
