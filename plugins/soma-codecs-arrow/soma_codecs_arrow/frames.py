"""DataFrames as Arrow tables that say how to be made DataFrames again.

The data of an encoded frame tells what a table cannot: spellings of dtypes, labels, attributes.
Its last buffer is a table of the column labels, those before it are the table of the columns and
of the row labels. What hosts in other languages send is simpler, and read as well: a stream alone
is a table with the pandas metadata that Arrow's own libraries write, and ``{"columns": {…}}``
alone a frame of these lists.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from soma_codecs_arrow.checking import check_conversion
from soma_codecs_arrow.columns import array_of, from_arrow, to_arrow
from soma_codecs_arrow.indexes import index_from_arrow, index_to_arrow
from soma_codecs_arrow.labels import arrays_of, attributes, named, naming, with_attributes
from soma_codecs_arrow.packing import bytes_in, pack, unpack
from soma_core.codecs import Encoded


def encode(frame: pd.DataFrame, *, aside: bool = True) -> Encoded:
    """A DataFrame with everything that it holds.

    Args:
        frame: The frame.
        aside: Whether columns of numbers may lie beside the stream, where they need no copy.

    Raises:
        Unencodable: A column, an index or the labels hold what Arrow has no form for.
    """
    columns, spellings = [], []
    for label, series in frame.items():
        with naming(f"column {label!r}"):
            column, spelling = to_arrow(array_of(series))
        columns.append(column)
        spellings.append(spelling)
    with naming("the index"):
        index_columns, index = index_to_arrow(frame.index)
    with naming("the column labels"):
        label_columns, labels = index_to_arrow(frame.columns)
    table = named([str(label) for label in frame.columns], columns, index_columns)
    apart, buffers = pack(table, aside=aside)
    _, label_buffers = pack(named([], [], label_columns), aside=False)
    told = {"apart": apart, "columns": spellings, "index": index, "labels": labels}
    return Encoded(attributes(frame) | told, [*buffers, *label_buffers])


def decode(data: Any, buffers: list[Any]) -> pd.DataFrame:
    """The DataFrame that was encoded, its numbers where they lie.

    Raises:
        ValueError: What came is none.
    """
    if data is None and len(buffers) == 1:
        table = unpack(None, buffers)
        check_conversion(table, bytes_in(buffers))
        return table.to_pandas()
    if isinstance(data, dict) and data.keys() == {"columns"} and not buffers:
        return pd.DataFrame(_lists(data["columns"]))
    if not isinstance(data, dict) or len(buffers) < 2:
        raise ValueError(
            "a DataFrame is one Arrow IPC stream without data, or data alone: "
            '{"columns": {"name": [1, 2]}}'
        )
    found = arrays_of(unpack(data["apart"], buffers[:-1]))
    spellings = data["columns"]
    index = index_from_arrow(found[len(spellings) :], data["index"])
    pairs = zip(found[: len(spellings)], spellings, strict=True)
    arrays = [_as_it_is(from_arrow(column, spelling), index) for column, spelling in pairs]
    labels = index_from_arrow(arrays_of(unpack(None, buffers[-1:])), data["labels"])
    frame = pd.DataFrame(dict(enumerate(arrays)), index=index, copy=False)
    frame.columns = labels
    return with_attributes(frame, data)


def _lists(columns: Any) -> dict[str, list[Any]]:
    """Columns that are lists: pandas would repeat anything else for each row of another one."""
    if not isinstance(columns, dict) or not all(type(item) is list for item in columns.values()):
        raise ValueError('the columns of a DataFrame are lists: {"columns": {"name": [1, 2]}}')
    return columns


def _as_it_is(array: Any, index: pd.Index) -> Any:
    """A column to build a frame of; pandas looks for another dtype in an array of objects."""
    if array.dtype != object:
        return array
    return pd.Series(array, index=index, dtype=object, copy=False)
