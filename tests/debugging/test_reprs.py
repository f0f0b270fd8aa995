"""What is shown as the last line of a cell is short, and says what matters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import Field

import soma_core as soma
from soma_core.client.results import BatchedFitResult, CompositeFitResult, NodeState, WorkerListing
from soma_core.models.brief import brief, size


class Big(soma.Filter):
    table: list[int] = Field(default_factory=lambda: list(range(1000)))
    weights: Any = None
    name: str = "n"

    def forward(self, x: Any, state: Any) -> Any:
        return x


ARRAY = np.ones((8, 512), "f4")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (
            Big(weights=ARRAY),
            "Big(table=[0, 1, 2, 3, … 996 more], weights=<ndarray of 8 by 512 float32, 16.4 kB>, "
            "name='n')",
        ),
        (
            NodeState(b"x" * 3_000_000, "torch", {"mean": ARRAY}),
            "NodeState(data=<3.0 MB>, format='torch', fit_state={'mean': <ndarray of 8 by 512 "
            "float32, 16.4 kB>}, training=None, config=None)",
        ),
        (
            CompositeFitResult(ARRAY, {"net": b"x" * 999}, {}, 0.5),
            "CompositeFitResult(result=<ndarray of 8 by 512 float32, 16.4 kB>, "
            "states={'net': <999 bytes>}, fit_states={}, loss=0.5)",
        ),
        (
            BatchedFitResult([1.5], {"a": {}}, [0.5] * 1000, {"lr": [0.1]}, 3),
            "BatchedFitResult(result=[1.5], states={'a': {}}, losses=[0.5, 0.5, 0.5, 0.5, "
            "… 996 more], history={'lr': [0.1]}, best_epoch=3)",
        ),
        (
            WorkerListing({}, ["sklearn.PCA"] * 200, {"soma": "1"}, [], ["lines"]),
            "WorkerListing(nodes={}, filters=['sklearn.PCA', 'sklearn.PCA', 'sklearn.PCA', "
            "'sklearn.PCA', … 196 more], versions={'soma': '1'}, codecs=[], features=['lines'])",
        ),
        (Big().meta(), "FilterMeta(name='Big')"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_repr_is_short(shown: object, expected: str) -> None:
    assert repr(shown) == expected


def test_a_pool_says_what_it_does_and_when_it_is_closed() -> None:
    pool = soma.WorkerPool("inline", 1, filters={"big": Big()})
    workers = [soma.connect("inline", filters={"big": Big()}) for _ in range(2)]
    assert repr(pool) == "<WorkerPool of 1 over inline, 0 busy, 0 waiting, nodes ['big']>"
    pool.close()
    assert repr(pool) == "<WorkerPool of 1 over inline, closed, nodes ['big']>"
    parallel = soma.DataParallel(workers, ["big"])
    assert repr(parallel) == "<DataParallel over 2 workers, nodes ['big']>"
    for worker in workers:
        worker.close()


def test_a_module_is_shown_by_its_parameters_and_a_table_by_its_shape() -> None:
    torch, pandas = pytest.importorskip("torch"), pytest.importorskip("pandas")
    assert brief(pandas.DataFrame({"a": [1, 2, 3], "b": 0})) == "<DataFrame of 3 by 2>"
    assert brief(torch.nn.Linear(10, 10)) == "<Linear of 110 parameters>"
    assert brief(torch.ones(2, 3)) == "<Tensor of 2 by 3 float32, 24 bytes>"


def test_a_repr_of_anything_is_short_and_never_fails() -> None:
    class Odd:
        shape, dtype = "no shape", 3

        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    class Closed:
        @property
        def shape(self) -> Any:
            raise RuntimeError("no shape")

    class Long:
        def __repr__(self) -> str:
            return "x" * 10_000

    for value in (
        Odd(),
        Closed(),
        Long(),
        10**5000,
        "x" * 10_000,
        {n: [n] * 99 for n in range(99)},
        {1} | set(range(99)),
    ):
        assert len(brief(value)) < 300


def test_a_number_of_bytes_is_written_in_the_unit_that_fits() -> None:
    written = [size(n) for n in (0, 1, 999, 1000, 999_949, 999_950, 10**9, 8 * 10**12)]
    assert written == [
        "0 bytes", "1 byte", "999 bytes", "1.0 kB", "999.9 kB", "1.0 MB", "1.0 GB", "8.0 TB",
    ]  # fmt: skip
