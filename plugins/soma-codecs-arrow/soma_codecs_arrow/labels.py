"""What a DataFrame and a Series share: checked columns, row labels, attributes and flags."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa

from soma_codecs_arrow.columns import array_of, to_arrow
from soma_codecs_arrow.indexes import index_to_arrow
from soma_core.codecs import Unencodable

__all__ = ["arrays_of", "attributes", "column_of", "columns_of_index", "named", "with_attributes"]


def column_of(series: pd.Series, what: str) -> tuple[pa.Array, Any]:
    """A column, and the spelling of its dtype.

    Raises:
        Unencodable: Arrow has no form of it; the text says which column.
    """
    try:
        return to_arrow(array_of(series))
    except Unencodable as reason:
        raise Unencodable(f"{what}: {reason}") from None


def columns_of_index(index: pd.Index, what: str) -> tuple[list[pa.Array], dict[str, Any]]:
    """The columns that hold an index, and what makes it of them again.

    Raises:
        Unencodable: Arrow has no form of it; the text says what it labels.
    """
    try:
        return index_to_arrow(index)
    except Unencodable as reason:
        raise Unencodable(f"{what}: {reason}") from None


def named(names: list[str], columns: list[pa.Array], index: list[pa.Array]) -> pa.Table:
    """A table of columns and of those that hold the index."""
    levels = [f"__index_level_{number}__" for number in range(len(index))]
    return pa.Table.from_arrays([*columns, *index], names=[*names, *levels])


def arrays_of(table: pa.Table) -> list[pa.Array]:
    """The columns of a table, each in one piece."""
    return [
        column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        for column in table.columns
    ]


def attributes(obj: Any) -> dict[str, Any]:
    """What is said of a DataFrame or a Series beside its content."""
    return {"attrs": obj.attrs, "unique": not obj.flags.allows_duplicate_labels}


def with_attributes(obj: Any, data: dict[str, Any]) -> Any:
    """The object, with what :func:`attributes` returned."""
    obj.attrs = data["attrs"]
    if data["unique"]:
        obj.flags.allows_duplicate_labels = False
    return obj
