"""A table as buffers: one Arrow IPC stream, and beside it the columns that need no copy.

A column of numbers without missing values is one buffer in Arrow's format already. Such a column
travels as it lies in memory; writing it into the stream would copy it.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from soma_codecs_arrow.checking import check_rows, check_stream, is_private, unknown_type
from soma_core.codecs import Unencodable

_LEAST = 4096  # bytes; a smaller column is cheaper in the stream
_INVALID = (pa.ArrowException, OSError, IndexError)


def pack(table: pa.Table, *, aside: bool) -> tuple[list[int] | None, list[Any]]:
    """A table's buffers, and which columns lie in buffers of their own.

    Args:
        table: The table.
        aside: Whether columns may lie beside the stream.

    Returns:
        The positions of the columns beside the stream, or None if the one buffer is the whole
        table; and the buffers: the stream, the schema, and the columns in that order.

    Raises:
        Unencodable: It has columns of a type that :func:`unpack` does not take.
    """
    try:
        _check_types(table.schema)
        check_rows(table, table.nbytes)
    except ValueError as error:
        raise Unencodable(str(error)) from None
    apart = [n for n, column in enumerate(table.columns) if _lies_apart(column)] if aside else []
    if not apart:
        return None, [_stream(table)]
    rest = table.select([n for n in range(table.num_columns) if n not in set(apart)])
    columns = [_content(table.column(n).chunk(0)) for n in apart]
    return apart, [_stream(rest), table.schema.serialize(), *columns]


def unpack(apart: list[int] | None, buffers: list[Any]) -> pa.Table:
    """The table of which :func:`pack` made the buffers.

    Columns beside the stream lie in their buffers, and keep them alive. Of everything that has to
    be checked, a copy is taken first where the other side could change it afterwards.

    Raises:
        ValueError: They are no table, have a type that is not on the list, or hold what would be
            read out of bounds.
    """
    try:
        table = _read(_own(buffers[0]))
        if apart is None:
            (_,) = buffers
        else:
            table = _joined(table, apart, buffers)
        table.validate(full=True)  # Arrow trusts the offsets in a stream; this does not
        check_rows(table, bytes_in(buffers))
    except _INVALID as error:
        raise ValueError(f"not a sound Arrow IPC stream: {error}") from None
    return table


def _lies_apart(column: pa.ChunkedArray) -> bool:
    kind = column.type
    return bool(
        column.num_chunks == 1
        and pa.types.is_primitive(kind)
        and kind.bit_width % 8 == 0
        and column.null_count == 0
        and column.nbytes >= _LEAST
    )


def _content(array: pa.Array) -> pa.Buffer:
    width = array.type.bit_width // 8
    return array.buffers()[1].slice(array.offset * width, len(array) * width)


def _stream(table: pa.Table) -> pa.Buffer:
    """The table as an IPC stream, its schema's metadata included."""
    counted = pa.MockOutputStream()
    _write(table, counted)
    buffer = pa.allocate_buffer(counted.size())
    _write(table, pa.FixedSizeBufferWriter(buffer))
    return buffer


def _write(table: pa.Table, sink: Any) -> None:
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches() or [_without_rows(table)]:
            writer.write_batch(batch)


def _without_rows(table: pa.Table) -> pa.RecordBatch:
    """A batch that holds no row, and still each column's dictionary."""
    columns = [column.combine_chunks() for column in table.columns]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def bytes_in(buffers: list[Any]) -> int:
    """How many bytes some buffers have together."""
    return sum(memoryview(buffer).nbytes for buffer in buffers)


def _own(buffer: Any) -> pa.Buffer:
    """The bytes of a buffer, where nobody else can change them."""
    if is_private(buffer):
        return pa.py_buffer(buffer)
    own = pa.allocate_buffer(memoryview(buffer).nbytes)
    memoryview(own).cast("B")[:] = memoryview(buffer).cast("B")
    return own


def _read(stream: pa.Buffer) -> pa.Table:
    with pa.ipc.open_stream(stream) as reader:
        _check_types(reader.schema)
        check_stream(stream)
        return reader.read_all()


def _check_types(schema: pa.Schema) -> None:
    for name, kind in zip(schema.names, schema.types, strict=True):
        unknown = unknown_type(kind)
        if unknown is not None:
            raise ValueError(
                f"column {name!r} has the type {unknown}, which does not travel between "
                "processes; cast it to a plain one"
            )


def _joined(rest: pa.Table, apart: list[int], buffers: list[Any]) -> pa.Table:
    schema = pa.ipc.read_schema(_own(buffers[1]))
    _check_types(schema)
    own = {n: _array(schema.field(n).type, b) for n, b in zip(apart, buffers[2:], strict=True)}
    others = iter(rest.columns)
    columns = [own[n] if n in own else next(others, None) for n in range(len(schema))]
    if None in columns or next(others, None) is not None:
        raise ValueError(
            "the columns in the stream and those beside it are not those of the schema"
        )
    return pa.Table.from_arrays(columns, schema=schema)


def _array(kind: pa.DataType, buffer: Any) -> pa.Array:
    if not pa.types.is_primitive(kind) or kind.bit_width % 8:
        raise ValueError(f"a column of {kind} does not lie beside the stream")
    content = pa.py_buffer(buffer)
    length, rest = divmod(content.size, kind.bit_width // 8)
    if rest:
        raise ValueError(f"{content.size:,} bytes are no whole number of {kind}")
    return pa.Array.from_buffers(kind, length, [None, content], null_count=0)
