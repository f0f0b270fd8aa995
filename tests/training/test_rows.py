"""A row is one thing: the same for lists, arrays, tensors, frames and dicts of columns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from soma_core.models import rows

NUMBERS = [3, 1, 4, 1, 5, 9, 2]


def tensor(numbers: list[int]) -> Any:
    return pytest.importorskip("torch").tensor(numbers)


def frame(numbers: list[int]) -> Any:
    return pytest.importorskip("pandas").DataFrame({"n": numbers}, index=numbers)


def series(numbers: list[int]) -> Any:
    return pytest.importorskip("pandas").Series(numbers, index=range(9, 9 - len(numbers), -1))


def table(numbers: list[int]) -> Any:
    return pytest.importorskip("pyarrow").table({"n": numbers})


def sparse(numbers: list[int]) -> Any:
    return pytest.importorskip("scipy.sparse").csr_matrix(np.array(numbers)[:, None])


def masked(numbers: list[int]) -> Any:
    return np.ma.MaskedArray(numbers, mask=[number == 4 for number in numbers])


def columns(numbers: list[int]) -> Any:
    return {"n": np.array(numbers), "inner": {"text": [str(n) for n in numbers]}, "unit": "m"}


MAKERS = [list, tuple, np.array, tensor, frame, series, table, sparse, masked, columns]


def content(value: Any) -> Any:
    """Something to compare: what a value holds, row by row."""
    if isinstance(value, dict):
        return {key: content(item) for key, item in value.items()}
    if hasattr(value, "toarray"):
        return value.toarray().tolist()
    if hasattr(value, "to_pydict"):
        return value.to_pydict()
    if hasattr(value, "iloc"):
        return value.reset_index().to_dict("list")
    return value.tolist() if hasattr(value, "tolist") else value


@pytest.mark.parametrize("make", MAKERS)
class TestEveryKind:
    def test_rows_are_counted(self, make: Callable[[list[int]], Any]) -> None:
        assert rows.count(make(NUMBERS)) == len(NUMBERS)

    @pytest.mark.parametrize("chosen", [[], [2], [6, 0, 2]], ids=str)
    def test_rows_are_taken_by_number_in_any_order(
        self, make: Callable[[list[int]], Any], chosen: list[int]
    ) -> None:
        taken = rows.take(make(NUMBERS), np.array(chosen, int))
        assert rows.count(taken) == len(chosen)
        if chosen and make is not series:  # a series keeps the labels of its rows
            assert content(taken) == content(make([NUMBERS[n] for n in chosen]))

    def test_slices_put_together_are_the_whole(self, make: Callable[[list[int]], Any]) -> None:
        whole = make(NUMBERS)
        cuts = [slice(0, 3), slice(3, 3), slice(3, 7)]
        joined = rows.concatenate([rows.take(whole, cut) for cut in cuts])
        assert type(joined) is type(whole)
        assert content(joined) == content(whole)


@pytest.mark.parametrize(
    "value", [None, 5, 1.5, "text", b"raw", np.float32(1), np.zeros(()), {}, {"unit": "m"}, {1, 2}]
)
def test_what_has_no_rows_belongs_to_every_row(value: Any) -> None:
    assert rows.count(value) is None
    assert rows.take(value, slice(0, 1)) is value or rows.take(value, slice(0, 1)) == value


@pytest.mark.parametrize("form", ["coo", "csc", "dia", "bsr", "lil"])
def test_rows_of_a_sparse_matrix_are_taken_in_every_format(form: str) -> None:
    whole = sparse(NUMBERS).asformat(form)
    assert rows.count(whole) == len(NUMBERS)
    assert rows.take(whole, slice(1, 3)).format == form
    assert content(rows.take(whole, slice(1, 3))) == [[1], [4]]
    assert content(rows.take(whole, np.array([6, 0]))) == [[2], [3]]


def test_a_slice_of_an_array_is_a_view_and_rows_by_number_are_copies() -> None:
    array = np.arange(4)
    assert np.shares_memory(rows.take(array, slice(1, 3)), array)
    assert not np.shares_memory(rows.take(array, np.array([1, 2])), array)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"x": [1, 2], "y": [1]}, "x and y must have equally many rows; x has 2, y has 1"),
        ({"x": {"a": [1], "b": [], "c": 3}}, r"rows; x\['a'\] has 1, x\['b'\] has 0$"),
        ({"x": {"a": {"b": [1]}}, "y": np.zeros(3)}, r"x\['a'\]\['b'\] has 1, y has 3$"),
    ],
)
def test_data_of_different_length_are_refused_by_name(named: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows.common_count(named)


def test_what_has_no_rows_agrees_with_any_number_of_them() -> None:
    assert rows.common_count({"x": "prompt", "y": [1, 2, 3]}) == 3
    assert rows.common_count({"x": {}, "y": None}) is None
    assert rows.common_count({"x": [], "y": None}) == 0


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([1, 2], "parts of type int cannot be put together; expected arrays"),
        ([[1], np.ones(1)], "parts of type list, ndarray cannot be put together"),
        ([np.ones((1, 2)), np.ones((1, 3))], "cannot be put together: all the input array dim"),
        ([{"a": [1]}, {"b": [1]}], r"they have different columns: \[\['a'\], \['b'\]\]"),
        ([{"a": [1], "unit": "m"}, {"a": [1], "unit": "s"}], "'unit' has no rows and is not the"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(parts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows.concatenate(parts)


def test_rows_that_have_only_numbers_are_numbered_anew_and_names_are_kept() -> None:
    named = frame(NUMBERS)
    plain = named.reset_index(drop=True)
    part = rows.take(plain, slice(2, 4))
    assert [rows.is_numbered(value) for value in (plain, part, plain[::2], named)] == [
        True, False, False, False,
    ]  # fmt: skip
    assert list(rows.renumbered(part, plain).index) == [0, 1]
    assert list(rows.renumbered({"a": part}, {"a": plain})["a"].index) == [0, 1]
    assert list(rows.renumbered(rows.take(named, slice(2, 4)), named).index) == NUMBERS[2:4]


def test_torch_and_pandas_are_not_imported_for_arrays() -> None:
    code = (
        "import sys, numpy as np\n"
        "from soma_core.models import rows\n"
        "rows.concatenate([rows.take(np.ones(3), slice(0, 2))] * 2)\n"
        "print({'torch', 'pandas', 'scipy', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
