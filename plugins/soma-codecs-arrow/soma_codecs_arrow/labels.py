"""What a DataFrame and a Series share: named columns, attributes and flags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from soma_core.codecs import Unencodable


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Within the block, the text of an Unencodable says what has no form in Arrow."""
    try:
        yield
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
