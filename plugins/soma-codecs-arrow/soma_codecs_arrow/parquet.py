"""Parquet files as data: rows are read group by group, as batches need them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_GROUPS_KEPT = 2  # a batch that spans the end of a row group needs two

Selection = slice | np.ndarray[Any, Any]


class ParquetRows:
    """The rows of a Parquet file, of which two row groups are in memory at most.

    Args:
        path: The file.
        key: One column, whose rows are numbers, texts or vectors; several, which make a matrix;
            None for all, as columns by name.

    Attributes:
        shape: How many rows there are, and how many columns of a matrix.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no Parquet file, or has no such column.
    """

    def __init__(self, path: str, key: str | Sequence[str] | None) -> None:
        self._file = pq.ParquetFile(path)
        known = self._file.schema_arrow.names
        self._key = key
        self._names = [key] if isinstance(key, str) else list(known if key is None else key)
        missing = [name for name in self._names if name not in known]
        if missing or not self._names:
            raise ValueError(f"it has no column {missing!r}; its columns are {', '.join(known)}")
        meta = self._file.metadata
        sizes = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()
        self.shape: tuple[int, ...] = (meta.num_rows,)
        if key is not None and not isinstance(key, str):
            self.shape += (len(self._names),)

    def __getitem__(self, selection: Selection) -> Any:
        if isinstance(selection, slice):
            start, stop, _ = selection.indices(self.shape[0])
            return self._as_data(self._between(start, stop))
        return self._as_data(self._numbered(np.asarray(selection)))

    def order(self, shuffle: np.random.Generator) -> np.ndarray[Any, Any]:
        """All rows in a random order in which a row group is read once.

        The groups come in any order, and within each its rows.
        """
        groups = shuffle.permutation(len(self._starts) - 1)
        parts = [self._starts[g] + shuffle.permutation(self._size(g)) for g in groups]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def _size(self, group: int) -> int:
        return int(self._starts[group + 1] - self._starts[group])

    def _group(self, group: int) -> pa.Table:
        if group in self._groups:
            self._groups.move_to_end(group)
        else:
            while len(self._groups) >= _GROUPS_KEPT:
                self._groups.popitem(last=False)
            self._groups[group] = self._file.read_row_group(group, columns=self._names)
        return self._groups[group]

    def _of_rows(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.searchsorted(self._starts, rows, side="right") - 1

    def _between(self, start: int, stop: int) -> pa.Table:
        if stop <= start:
            return self._file.schema_arrow.empty_table().select(self._names)
        first, last = self._of_rows(np.array([start, stop - 1])).tolist()
        parts = []
        for group in range(first, last + 1):
            begin = max(start - int(self._starts[group]), 0)
            end = min(stop - int(self._starts[group]), self._size(group))
            parts.append(self._group(group).slice(begin, end - begin))
        return pa.concat_tables(parts)

    def _numbered(self, rows: np.ndarray[Any, Any]) -> pa.Table:
        groups = self._of_rows(rows)
        needed = list(dict.fromkeys(groups.tolist()))
        parts = [self._group(g).take(rows[groups == g] - self._starts[g]) for g in needed]
        if len(parts) == 1:
            return parts[0]
        where = np.concatenate([np.flatnonzero(groups == group) for group in needed])
        return pa.concat_tables(parts).take(np.argsort(where))

    def _as_data(self, table: pa.Table) -> Any:
        if isinstance(self._key, str):
            return _column(table[self._key])
        columns = {name: _column(table[name]) for name in self._names}
        if self._key is None:
            return columns
        return np.stack([np.asarray(column) for column in columns.values()], axis=1)


def _column(column: pa.ChunkedArray) -> Any:
    """A column as an array, nan where a number is missing; a list where it is no numbers."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # what combines to no chunk at all
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_fixed_size_list(array.type) and not array.null_count:
        width = array.type.list_size
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), width).copy()
    found = array.to_numpy(zero_copy_only=False)
    return array.to_pylist() if found.dtype == object else found.copy()
