"""Row and column labels: a pandas Index as columns of a table, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from soma_codecs_arrow.columns import array_of, frequency_of, from_arrow, to_arrow, with_frequency
from soma_core.codecs import Unencodable

_KNOWN = (
    pd.Index,
    pd.CategoricalIndex,
    pd.DatetimeIndex,
    pd.IntervalIndex,
    pd.PeriodIndex,
    pd.TimedeltaIndex,
)


def index_to_arrow(index: Any) -> tuple[list[pa.Array], dict[str, Any]]:
    """The columns that hold an index, and what makes it of them again.

    Raises:
        Unencodable: It is of a class or holds values for which Arrow has no form.
    """
    names = [spell_name(name) for name in index.names]
    if type(index) is pd.RangeIndex:
        return [], {"range": [index.start, index.stop, index.step], "names": names}
    if type(index) is pd.MultiIndex:
        levels = [
            to_arrow(pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(level)))
            for level, codes in zip(index.levels, index.codes, strict=True)
        ]
        spellings = [spelling for _, spelling in levels]
        return [column for column, _ in levels], {"levels": spellings, "names": names}
    if type(index) not in _KNOWN:
        raise Unencodable(f"an index of the class {type(index).__qualname__}")
    if index.dtype == object and all(_is_name(value) for value in index):
        return [], {"items": [spell_name(value) for value in index], "names": names}
    column, spelling = to_arrow(array_of(index))
    return [column], {"values": spelling, "names": names} | frequency_of(index)


def _is_name(value: Any) -> bool:
    """Whether a label is data by itself; a column of labels of several types is none of Arrow's."""
    if type(value) is tuple:
        return all(map(_is_name, value))
    return type(value) in (str, int, float, bool, type(None))


def spell_name(name: Any) -> Any:
    """A name as data; a line of JSON knows no tuples, and a list is no name."""
    return {"tuple": [spell_name(part) for part in name]} if type(name) is tuple else name


def read_name(spelled: Any) -> Any:
    """The name that :func:`spell_name` was given."""
    if isinstance(spelled, dict):
        return tuple(read_name(part) for part in spelled["tuple"])
    return spelled


def index_from_arrow(columns: Sequence[pa.Array], told: dict[str, Any]) -> Any:
    """The index that :func:`index_to_arrow` was given.

    Raises:
        ValueError: The columns are not those of such an index.
    """
    names = [read_name(name) for name in told["names"]]
    if "range" in told:
        return pd.RangeIndex(*told["range"], name=names[0])
    if "levels" in told:
        parts = [
            from_arrow(column, spelling)
            for column, spelling in zip(columns, told["levels"], strict=True)
        ]
        levels, codes = [part.categories for part in parts], [part.codes for part in parts]
        return pd.MultiIndex(levels=levels, codes=codes, names=names)
    if "items" in told:
        items = np.empty(len(told["items"]), object)
        items[:] = [read_name(item) for item in told["items"]]
        return pd.Index(items, dtype=object, name=names[0], tupleize_cols=False)
    (column,) = columns
    values = from_arrow(column, told["values"])
    dtype = object if values.dtype == object else None
    return with_frequency(pd.Index(values, dtype=dtype, name=names[0], copy=False), told)
