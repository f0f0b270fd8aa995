"""Parquet files as data: read row group by row group, in order or shuffled."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from soma_codecs_arrow import soma_open_file
from soma_codecs_arrow.parquet import ParquetRows

import soma_core as soma

X = np.arange(300, dtype="f4").reshape(100, 3)
Y = X.sum(axis=1)


class Batches(soma.Filter):
    """Remembers its batches."""

    def fit(self, x: Any, y: Any = None) -> Any:
        raise AssertionError("partial_fit is there")

    def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
        return {"x": [*state.get("x", []), x], "y": [*state.get("y", []), y]}

    def forward(self, x: Any, state: Any) -> Any:
        return 0


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    table = pa.table(
        {
            "a": X[:, 0],
            "b": X[:, 1],
            "c": X[:, 2],
            "y": Y,
            "name": [f"row {row}" for row in range(100)],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 3),
            "gaps": [None if row % 2 else row for row in range(100)],
        }
    )
    file = tmp_path_factory.mktemp("parquet") / "data.parquet"
    pq.write_table(table, file, row_group_size=30)
    return str(file)


@pytest.fixture
def inline() -> Iterator[soma.Worker]:
    with soma.connect("inline", filters={"it": Batches()}) as worker:
        yield worker


@pytest.mark.parametrize("key", [["a", "b", "c"], "vector"])
def test_columns_and_vectors_are_rows_of_a_matrix(inline: soma.Worker, path: str, key: Any) -> None:
    files = soma.DataFile(path, key), soma.DataFile(path, "y")
    state = inline.batched_fit(["it"], *files, batch_size=7).states["it"]
    np.testing.assert_array_equal(np.concatenate(state["x"]), X)
    np.testing.assert_array_equal(np.concatenate(state["y"]), Y)
    assert {len(batch) for batch in state["x"][:-1]} == {7}
    assert state["x"][0].dtype == np.float32


def test_a_shuffle_has_each_row_once_beside_its_target_and_reads_a_group_once(
    inline: soma.Worker, path: str
) -> None:
    files = soma.DataFile(path, "vector"), soma.DataFile(path, "y")
    fit = {"batch_size": 7, "shuffle": True, "seed": 1}
    state = inline.batched_fit(["it"], *files, **fit).states["it"]
    x, y = np.concatenate(state["x"]), np.concatenate(state["y"])
    assert sorted(x[:, 0]) == X[:, 0].tolist() != x[:, 0].tolist()
    np.testing.assert_array_equal(x.sum(axis=1), y)
    groups = (x[:, 0] // 90).tolist()
    assert sum(one != other for one, other in pairwise(groups)) == 3
    again = inline.batched_fit(["it"], *files, **fit).states["it"]
    np.testing.assert_array_equal(np.concatenate(again["x"]), x)


def test_without_a_key_a_batch_is_columns_by_name(inline: soma.Worker, path: str) -> None:
    state = inline.batched_fit(["it"], soma.DataFile(path), batch_size=100).states["it"]
    (columns,) = state["x"]
    assert columns["name"][:2] == ["row 0", "row 1"]
    np.testing.assert_array_equal(columns["a"], X[:, 0])
    np.testing.assert_array_equal(np.isnan(columns["gaps"]), np.arange(100) % 2 == 1)


def test_rows_by_number_come_in_the_order_asked_for(path: str) -> None:
    rows = ParquetRows(path, "y")
    chosen = np.array([99, 0, 31, 30, 2])
    np.testing.assert_array_equal(rows[chosen], Y[chosen])
    assert rows[5:5].shape == (0,)
    assert ParquetRows(path, ["a", "b"]).shape == (100, 2)


def test_validation_and_metrics_read_files_too(inline: soma.Worker, path: str) -> None:
    inline.load({"line": ("sklearn.SGDRegressor", {"random_state": 0})})
    files = soma.DataFile(path, "vector"), soma.DataFile(path, "y")
    found = inline.batched_fit(["line"], *files, validation=files, metrics={"r2": "r2"})
    assert len(found.history["r2"]) == 1


@pytest.mark.parametrize(
    ("file", "key", "said"),
    [
        ("{path}", "z", r"has no column \['z'\]; its columns are a, b, c"),
        ("{path}.missing.parquet", None, "No such file"),
        (__file__, None, "files are .npy, .npz, and what plugins read"),
    ],
)
def test_what_cannot_be_read_is_told(
    inline: soma.Worker, path: str, file: str, key: Any, said: str
) -> None:
    with pytest.raises(soma.RemoteError, match=said):
        inline.batched_fit(["it"], soma.DataFile(file.format(path=path), key))


def test_other_files_are_left_to_others(tmp_path: Path) -> None:
    assert soma_open_file(path=str(tmp_path / "data.csv"), key=None) is None
