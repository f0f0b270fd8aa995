"""Series as Arrow tables of one column and the row labels."""

from __future__ import annotations

from typing import Any

import pandas as pd

from soma_codecs_arrow.columns import array_of, from_arrow, to_arrow
from soma_codecs_arrow.indexes import index_from_arrow, index_to_arrow, read_name, spell_name
from soma_codecs_arrow.labels import arrays_of, attributes, named, naming, with_attributes
from soma_codecs_arrow.packing import pack, unpack
from soma_core.codecs import Encoded


def encode(series: pd.Series, *, aside: bool = True) -> Encoded:
    """A Series with everything that it holds; ``aside`` is as for a DataFrame.

    Raises:
        Unencodable: It or its index holds what Arrow has no form for.
    """
    with naming("the Series"):
        column, spelling = to_arrow(array_of(series))
    with naming("the index"):
        index_columns, index = index_to_arrow(series.index)
    apart, buffers = pack(named(["values"], [column], index_columns), aside=aside)
    told = {"apart": apart, "dtype": spelling, "index": index, "name": spell_name(series.name)}
    return Encoded(attributes(series) | told, buffers)


def decode(data: Any, buffers: list[Any]) -> pd.Series:
    """The Series that was encoded, its numbers where they lie.

    Raises:
        ValueError: What came is none.
    """
    if isinstance(data, dict) and data.keys() == {"values"} and not buffers:
        if type(data["values"]) is not list:
            raise ValueError('the values of a Series are a list: {"values": [1, 2]}')
        return pd.Series(data["values"])
    if not isinstance(data, dict) or not buffers:
        raise ValueError('a Series is data alone, {"values": [1, 2]}, or what this codec wrote')
    column, *index_columns = arrays_of(unpack(data["apart"], buffers))
    values = from_arrow(column, data["dtype"])
    index = index_from_arrow(index_columns, data["index"])
    dtype = object if values.dtype == object else None
    series = pd.Series(values, index=index, name=read_name(data["name"]), dtype=dtype, copy=False)
    return with_attributes(series, data)
