"""One column: a pandas or numpy array as an Arrow array and back, or the reason why it cannot be.

A *spelling* of a dtype is what JSON needs to make the dtype again: numpy's name, pandas' name, or
an object where neither is enough.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from soma_core.codecs import Unencodable

Spelling = str | dict[str, Any]

_KINDS: dict[type[Any], tuple[str, pa.DataType]] = {
    str: ("str", pa.large_string()),
    bytes: ("bytes", pa.large_binary()),
    bool: ("bool", pa.bool_()),
    int: ("int", pa.int64()),
    float: ("float", pa.float64()),
    datetime.date: ("date", pa.date32()),
}
_KINDS_BY_NAME = dict(_KINDS.values())
_MISSING: dict[str, Any] = {"None": None, "nan": math.nan, "NA": pd.NA}


# pandas tells Arrow of its types with the first array that it converts; until then Arrow reads a
# column of periods or intervals as plain numbers.
pa.array(pd.array([], dtype="period[D]"))


def array_of(labelled: Any) -> Any:
    """The array of a Series or an Index: numpy's, or pandas' where numpy has no such dtype."""
    extended = isinstance(labelled.dtype, pd.api.extensions.ExtensionDtype)
    return labelled.array if extended else labelled.to_numpy()


def to_arrow(array: Any) -> tuple[pa.Array, Spelling]:
    """One array as Arrow's, a view of it where its dtype has the same form in Arrow.

    Args:
        array: A numpy array of one axis, or a pandas extension array.

    Raises:
        Unencodable: Arrow has no form from which the same array could be made again.
    """
    dtype = array.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _category_to_arrow(array)
    if pd.api.types.is_object_dtype(dtype):
        return _objects_to_arrow(np.asarray(array))
    if isinstance(dtype, np.dtype):
        return _numbers_to_arrow(np.ascontiguousarray(array)), dtype.str
    spelling = _spelled(dtype)
    try:
        return _whole(pa.array(pd.Series(array, copy=False))), spelling
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise Unencodable(f"Arrow has no form of {dtype}: {error}") from None


def from_arrow(column: pa.Array, spelling: Spelling) -> Any:
    """The array that :func:`to_arrow` was given; numbers that lie by themselves are a view.

    Raises:
        ValueError: The column does not have the form of the dtype.
    """
    if isinstance(spelling, dict) and "categories" in spelling:
        return _category_from_arrow(column, spelling)
    if isinstance(spelling, dict) and "objects" in spelling:
        return _objects_from_arrow(column, spelling)
    dtype = _dtype(spelling, column.type)
    if isinstance(dtype, np.dtype):
        return _numbers_from_arrow(column, dtype)
    if not _is_form_of(column.type, dtype):
        raise ValueError(f"a column of {column.type} does not have the form of {dtype}")
    return dtype.__from_arrow__(column)


def _is_of_pandas(dtype: Any) -> bool:
    """Whether a dtype is of pandas itself; another library reads columns in a way of its own."""
    return type(dtype).__module__.partition(".")[0] == "pandas"


def _is_form_of(kind: pa.DataType, dtype: Any) -> bool:
    """Whether an array of a pandas dtype has this type in Arrow; pandas would convert any other."""
    if isinstance(dtype, pd.ArrowDtype):
        return True
    if isinstance(dtype, pd.StringDtype):
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
    if isinstance(dtype, pd.CategoricalDtype) or not _is_of_pandas(dtype):
        return False
    return bool(to_arrow(pd.array([], dtype=dtype))[0].type == kind)


def frequency_of(index: Any) -> dict[str, str]:
    """What keeps the frequency of an index of dates, if it has one.

    Raises:
        Unencodable: The frequency has no name.
    """
    freq = getattr(index, "freq", None)
    if freq is None or not isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex):
        return {}
    try:
        same = pd.tseries.frequencies.to_offset(freq.freqstr) == freq
    except ValueError:
        same = False
    if not same:
        raise Unencodable(f"an index with the frequency {freq}")
    return {"freq": freq.freqstr}


def with_frequency(index: Any, told: dict[str, Any]) -> Any:
    """The index, with the frequency that :func:`frequency_of` told."""
    if "freq" in told:
        index.freq = told["freq"]
    return index


def _whole(array: Any) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _spelled(dtype: Any) -> Spelling:
    """How to make an extension dtype again."""
    if isinstance(dtype, pd.ArrowDtype):
        return {"arrow": str(dtype)}
    if isinstance(dtype, pd.StringDtype):
        missing = "NA" if dtype.na_value is pd.NA else "nan"
        spelling: Spelling = {"string": dtype.storage, "missing": missing}
    else:
        spelling = str(dtype)
    try:
        same = _dtype(spelling, None) == dtype
    except (TypeError, ValueError):
        same = False
    if not same:
        raise Unencodable(f"{dtype} is not the name of its own dtype")
    return spelling


def _dtype(spelling: Spelling, arrow: pa.DataType | None) -> Any:
    if isinstance(spelling, str):
        return pd.api.types.pandas_dtype(spelling)
    if "arrow" in spelling:
        return pd.ArrowDtype(arrow)
    if spelling["missing"] == "NA":
        return pd.StringDtype(spelling["string"])
    return pd.StringDtype(spelling["string"], na_value=math.nan)


def _arrow_type(dtype: np.dtype[Any]) -> pa.DataType:
    """Arrow's type of the same bytes; any other one is bytes of a fixed size."""
    if dtype.kind in "iufmM" and dtype.itemsize <= 8 and dtype.isnative:
        return pa.from_numpy_dtype(dtype)
    if dtype.kind == "c" and dtype.isnative:
        return pa.binary(dtype.itemsize)
    raise Unencodable(f"Arrow has no form of {dtype}")


def _numbers_to_arrow(values: np.ndarray[Any, Any]) -> pa.Array:
    if values.dtype.kind == "b":
        return pa.array(values)
    kind = _arrow_type(values.dtype)
    if values.dtype.kind in "mM" and np.isnat(values).any():
        return pa.array(values, type=kind)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values.view(np.uint8))])


def _numbers_from_arrow(column: pa.Array, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    if column.type != (pa.bool_() if dtype.kind == "b" else _arrow_type(dtype)):
        raise ValueError(f"a column of {column.type} does not have the form of {dtype}")
    if dtype.kind == "b" or column.null_count:
        return np.array(column.to_numpy(zero_copy_only=False), dtype)
    content = column.buffers()[1]
    if len(column) == 0 or content is None:
        return np.empty(0, dtype)
    values = np.frombuffer(content, dtype, len(column), column.offset * dtype.itemsize)
    return values if values.flags.writeable else values.copy()


def _category_to_arrow(array: Any) -> tuple[pa.Array, Spelling]:
    codes = np.ascontiguousarray(array.codes)
    categories, spelling = to_arrow(array_of(array.categories))
    absent = codes < 0
    indices = pa.array(codes, mask=absent) if absent.any() else _numbers_to_arrow(codes)
    ordered = bool(array.ordered)
    column = pa.DictionaryArray.from_arrays(indices, categories, ordered=ordered)
    told = {"categories": spelling, "ordered": ordered} | frequency_of(array.categories)
    return column, told


def _category_from_arrow(column: pa.Array, spelling: dict[str, Any]) -> Any:
    if not pa.types.is_dictionary(column.type):
        raise ValueError(f"a column of {column.type} does not hold categories")
    codes = np.array(column.indices.fill_null(-1).to_numpy(zero_copy_only=False))
    categories = from_arrow(column.dictionary, spelling["categories"])
    kept = object if categories.dtype == object else None
    index = with_frequency(pd.Index(categories, dtype=kept, copy=False), spelling)
    dtype = pd.CategoricalDtype(index, ordered=spelling["ordered"])
    return pd.Categorical.from_codes(codes, dtype=dtype)


def _objects_to_arrow(values: np.ndarray[Any, Any]) -> tuple[pa.Array, Spelling]:
    """Python objects of one kind, some perhaps missing, all in the same way."""
    present, missing = set(), set()
    for value in values:
        sign = next((name for name, test in _IS_MISSING.items() if test(value)), None)
        if sign is None:
            present.add(type(value))
        else:
            missing.add(sign)
    if len(present) > 1 or len(missing) > 1 or not present <= _KINDS.keys():
        names = sorted({kind.__qualname__ for kind in present} | missing)
        raise Unencodable(f"dtype object, holding {', '.join(names)}")
    name, kind = _KINDS[present.pop() if present else str]
    sign = missing.pop() if missing else "None"
    listed = [None if _IS_MISSING[sign](value) else value for value in values]
    try:
        return pa.array(listed, type=kind), {"objects": name, "missing": sign}
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        raise Unencodable(f"dtype object: {error}") from None


_IS_MISSING: dict[str, Callable[[Any], bool]] = {
    "None": lambda value: value is None,
    "nan": lambda value: type(value) is float and math.isnan(value),
    "NA": lambda value: value is pd.NA,
}


def _objects_from_arrow(column: pa.Array, spelling: dict[str, Any]) -> np.ndarray[Any, Any]:
    if column.type != _KINDS_BY_NAME[spelling["objects"]]:
        raise ValueError(f"a column of {column.type} does not hold {spelling['objects']}")
    values = np.empty(len(column), object)
    missing = _MISSING[spelling["missing"]]
    values[:] = [missing if value is None else value for value in column.to_pylist()]
    return values
