"""What of Arrow is taken from another process.

Arrow reads more than it checks: types that pass its validation and crash its conversions, buffers
that a few bytes inflate to gigabytes, rows that have no bytes at all. So the types are a closed
list, nothing is decompressed, and rows are counted against the bytes that came.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

_FLAT = frozenset(
    kind.id
    for kind in (
        *(pa.bool_(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
        *(pa.float16(), pa.float32(), pa.float64()),
        *(pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.binary(1)),
        *(pa.date32(), pa.date64(), pa.time32("s"), pa.time64("us"), pa.timestamp("s")),
        *(pa.duration("s"), pa.month_day_nano_interval()),
        *(pa.decimal128(1), pa.decimal256(1)),
    )
)
_OF_WIDTH = pa.binary(1).id
_EXTENSIONS = frozenset({"pandas.period", "pandas.interval"})
_LEAST_ROWS = 1_000_000  # without bytes; beyond, one for each byte that came
_TIMES, _BESIDE = 16, 64 << 20  # of what came, and beside it: what a conversion may take
_SMALL_OBJECT, _OBJECT = 56, 120  # bytes: what a date or a text takes, and what a list does


def unknown_type(kind: pa.DataType) -> pa.DataType | None:
    """The type, or that within it, which is not on the list; None if all of them are."""
    if kind.id in _FLAT:
        return kind if kind.id == _OF_WIDTH and not kind.byte_width else None
    if pa.types.is_null(kind):
        return None
    if pa.types.is_dictionary(kind):
        return None if kind.value_type.id in _FLAT else kind
    if isinstance(kind, pa.BaseExtensionType):
        return unknown_type(kind.storage_type) if kind.extension_name in _EXTENSIONS else kind
    if not _is_nested(kind) or not kind.num_fields:
        return kind
    if pa.types.is_fixed_size_list(kind) and not kind.list_size:
        return kind
    inner = (unknown_type(kind.field(n).type) for n in range(kind.num_fields))
    return next((found for found in inner if found is not None), None)


def _is_nested(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_struct(kind)
        or pa.types.is_map(kind)
    )


def is_private(buffer: Any) -> bool:
    """Whether nobody else can change a buffer, as the other side can where memory is shared."""
    return isinstance(memoryview(buffer).obj, bytes | bytearray)


def check_stream(stream: pa.Buffer) -> None:
    """Refuse a stream that would be decompressed, or that builds its dictionaries bit by bit.

    Raises:
        ValueError: It is such a stream, or none at all.
    """
    for message in pa.ipc.MessageReader.open_stream(stream):
        if message.type == "schema":
            continue
        batch = _Table.root(message.metadata).table(_HEADER)
        if message.type == "dictionary":
            if batch.byte(_IS_DELTA):
                raise ValueError("it adds to a dictionary; write each dictionary whole")
            batch = batch.table(_DATA)
        elif message.type != "record batch":
            raise ValueError(f"it has a message of the type {message.type}")
        if batch.has(_COMPRESSION):
            raise ValueError("its buffers are compressed; write them as they are")


_HEADER = 2  # of a Message
_DATA, _IS_DELTA = 1, 2  # of a DictionaryBatch
_COMPRESSION = 3  # of a RecordBatch


class _Table:
    """A table of FlatBuffers, as far as needed; Arrow has verified it by the time it is read."""

    def __init__(self, content: memoryview, position: int) -> None:
        self._content, self._position = content, position
        self._fields = position - self._number(position, "<i4")

    @classmethod
    def root(cls, buffer: pa.Buffer) -> _Table:
        content = memoryview(buffer)
        return cls(content, int(np.frombuffer(content, "<u4", 1)[0]))

    def _number(self, position: int, dtype: str) -> int:
        if position < 0:
            raise ValueError("a message reaches before its start")
        return int(np.frombuffer(self._content, dtype, 1, position)[0])

    def _place(self, field: int) -> int:
        """How far from the start of the table a field is; 0 if it is not there."""
        at = 4 + 2 * field
        if at >= self._number(self._fields, "<u2"):
            return 0
        return self._number(self._fields + at, "<u2")

    def has(self, field: int) -> bool:
        return self._place(field) != 0

    def byte(self, field: int) -> int:
        place = self._place(field)
        return self._number(self._position + place, "<u1") if place else 0

    def table(self, field: int) -> _Table:
        if not self.has(field):
            raise ValueError("a message lacks what it is about")
        position = self._position + self._place(field)
        return _Table(self._content, position + self._number(position, "<u4"))


def check_rows(table: pa.Table, size: int) -> None:
    """Refuse rows that have no bytes, beyond as many as the bytes that came.

    Raises:
        ValueError: There are more.
    """
    columns = [column for column in table.columns if column.type.id not in _FLAT]
    rows = sum(len(part) for part in _parts(columns) if pa.types.is_null(part.type))
    if rows > max(_LEAST_ROWS, size):
        raise ValueError(f"it has {rows:,} values of the type null, which have no bytes")


def check_conversion(table: pa.Table, size: int) -> None:
    """Refuse to convert a table whose objects would take many times the bytes that came.

    Raises:
        ValueError: They would, or it has a dictionary within another type, which is repeated.
    """
    columns = [chunk for column in table.columns for chunk in column.chunks]
    for part in _parts(table.columns):
        if pa.types.is_dictionary(part.type) and not any(part is column for column in columns):
            raise ValueError(f"a column holds {part.type}; a dictionary is a column of its own")
    needed = sum(len(part) * _cost(part.type) for part in _parts(table.columns))
    if needed > _TIMES * size + _BESIDE:
        raise ValueError(f"as a DataFrame, {size:,} bytes would become about {needed:,}")


def _cost(kind: pa.DataType) -> int:
    """Bytes that a value takes in a DataFrame, beside what lies in it and the text itself."""
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_dictionary(kind):
        return 8
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        return 8
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return 8
    if pa.types.is_temporal(kind) or not kind.num_fields:
        return _SMALL_OBJECT
    return _OBJECT * (kind.num_fields + 1 if pa.types.is_struct(kind) else 1)


def _parts(columns: Iterable[pa.ChunkedArray]) -> Iterator[pa.Array]:
    """Every array of some columns, those within others too."""
    for column in columns:
        for chunk in column.chunks:
            yield from _within(chunk)


def _within(array: pa.Array) -> Iterator[pa.Array]:
    yield array
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        yield from _within(array.storage)
    elif pa.types.is_struct(kind):
        for n in range(kind.num_fields):
            yield from _within(array.field(n))
    elif pa.types.is_dictionary(kind):
        yield from _within(array.dictionary)
    elif _is_nested(kind):
        yield from _within(array.values)
