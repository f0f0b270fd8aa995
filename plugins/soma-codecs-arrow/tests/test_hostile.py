"""Tables that somebody made to do harm are refused before they are converted."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from soma_codecs_arrow import frames, series, tables

from soma_core.codecs import Unencodable

MILLIONS = 50_000_000


def stream(table: pa.Table, **options: Any) -> bytearray:
    sink = io.BytesIO()
    chosen = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, table.schema, options=chosen) as writer:
        writer.write_table(table)
    return bytearray(sink.getvalue())


def column(array: Any) -> pa.Table:
    return pa.table({"a": array})


def run_ends() -> pa.Table:
    ends = pa.array([MILLIONS], pa.int32())
    return column(pa.RunEndEncodedArray.from_arrays(ends, pa.array(["text"])))


def texts_in_views() -> pa.Table:
    return column(pa.array(["a text that is longer than twelve bytes"], pa.string_view()))


def lists_in_views() -> pa.Table:
    items = pa.array(range(10))
    starts, sizes = pa.array([0, 5], pa.int32()), pa.array([5, 5], pa.int32())
    return column(pa.ListViewArray.from_arrays(starts, sizes, items))


def union() -> pa.Table:
    return column(pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]))


def lists(items: pa.Array, length: int) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array([0, length], pa.int32()), items)


REFUSED: dict[str, Callable[[], pa.Table]] = {
    "runs": run_ends,
    "texts in views": texts_in_views,
    "lists in views": lists_in_views,
    "a union": union,
    "runs in a list": lambda: column(lists(run_ends()["a"].chunk(0), 3)),
    "views in a struct": lambda: column(
        pa.StructArray.from_arrays([texts_in_views()["a"].chunk(0)], ["x"])
    ),
    "bytes of no width": lambda: column(pa.array([b""] * 3, pa.binary(0))),
    "structs of nothing": lambda: column(pa.array([{}] * 3, pa.struct([]))),
    "lists of no size": lambda: column(pa.array([[]] * 3, pa.list_(pa.int8(), 0))),
    "a dictionary of lists": lambda: column(
        pa.DictionaryArray.from_arrays(pa.array([0]), pa.array([[1, 2]]))
    ),
    "millions of nulls": lambda: column(pa.nulls(MILLIONS)),
    "millions of nulls in a list": lambda: column(lists(pa.nulls(MILLIONS), MILLIONS)),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_type_that_is_not_on_the_list_is_neither_read_nor_written(kind: str) -> None:
    table = REFUSED[kind]()
    sent = stream(table)
    for decode in (tables.decode, frames.decode):
        with pytest.raises(ValueError, match=r"does not travel between|have no bytes"):
            decode(None, [sent])
    for aside in (True, False):
        with pytest.raises(Unencodable, match=r"does not travel between|have no bytes"):
            tables.encode(table, aside=aside)


def test_a_frame_of_such_a_type_is_not_written_either() -> None:
    nothing = pd.Series([{}], dtype=pd.ArrowDtype(pa.struct([])))
    with pytest.raises(Unencodable, match="'x' has the type struct<>"):
        frames.encode(pd.DataFrame({"x": nothing}))


def test_a_schema_beside_the_stream_lists_the_same_types() -> None:
    encoded = tables.encode(pa.table({"a": np.arange(5000)}))
    columns, schema, rest = [bytearray(part) for part in encoded.buffers]
    lying = bytearray(run_ends().schema.serialize())
    with pytest.raises(ValueError, match="run_end_encoded"):
        tables.decode(encoded.data, [columns, lying, rest])
    assert tables.decode(encoded.data, [columns, schema, rest]).num_rows == 5000


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_stream_that_is_compressed_is_refused_before_it_is_inflated(compression: str) -> None:
    before = pa.total_allocated_bytes()
    table = column(np.zeros(1_000_000))
    dictionary = column(pa.array(["x" * 100_000] * 3).dictionary_encode())
    for sent in (stream(table, compression=compression), stream(dictionary, compression="zstd")):
        with pytest.raises(ValueError, match="compressed"):
            tables.decode(None, [sent])
    del table, dictionary
    assert pa.total_allocated_bytes() <= before


def test_dictionaries_come_whole() -> None:
    sink = io.BytesIO()
    growing = [pa.array(words).dictionary_encode() for words in (["a"], ["a", "b"])]
    schema = pa.schema({"a": growing[0].type})
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for part in growing:
            writer.write_batch(pa.record_batch([part], schema=schema))
    with pytest.raises(ValueError, match="adds to a dictionary"):
        tables.decode(None, [bytearray(sink.getvalue())])


EXPANDING: dict[str, Callable[[], pa.Table]] = {
    "bools in structs": lambda: column(
        pa.StructArray.from_arrays([pa.array(np.ones(8_000_000, bool))], ["x"])
    ),
    "lists of one bool": lambda: column(
        pa.FixedSizeListArray.from_arrays(pa.array(np.ones(8_000_000, bool)), 1)
    ),
    "empty lists": lambda: column(
        pa.ListArray.from_arrays(pa.array(np.zeros(8_000_000, np.int32)), pa.array([], pa.int8()))
    ),
}


@pytest.mark.parametrize("kind", EXPANDING)
def test_a_table_that_would_take_many_times_its_size_stays_a_table(kind: str) -> None:
    sent = stream(EXPANDING[kind]())
    with pytest.raises(ValueError, match="bytes would become about"):
        frames.decode(None, [sent])
    assert tables.decode(None, [sent]).num_rows > 7_000_000


def test_a_dictionary_within_a_list_is_not_repeated_for_each_of_its_items() -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 9, pa.int8()), pa.array(["long" * 1000]))
    with pytest.raises(ValueError, match="a dictionary is a column of its own"):
        frames.decode(None, [stream(column(lists(words, 9)))])


@pytest.mark.parametrize(
    "columns",
    [
        {"a": [1, 2], "b": 5},
        {"a": {"x": 1}, "b": {"y": 2}},
        {"a": "text"},
        {"a": [1], "b": None},
        [[1], [2]],
        7,
    ],
)
def test_columns_of_plain_data_are_lists_which_nothing_repeats(columns: Any) -> None:
    with pytest.raises(ValueError, match="columns of a DataFrame are lists"):
        frames.decode({"columns": columns}, [])


@pytest.mark.parametrize("values", [5, "text", {"a": 1}, None])
def test_values_of_plain_data_are_a_list(values: Any) -> None:
    with pytest.raises(ValueError, match="values of a Series are a list"):
        series.decode({"values": values}, [])


ENCODED = frames.encode(pd.DataFrame({"a": ["x", "y", "x"]}), aside=False)


@pytest.mark.parametrize(
    "spelling",
    [
        "<U1000000",
        "<f8",
        "<M8[ns]",
        "|b1",
        "|O",
        "Int64",
        "boolean",
        "category",
        "period[D]",
        "Sparse[float64]",
        {"objects": "int", "missing": "None"},
        {"objects": "nothing", "missing": "None"},
        {"categories": "<i8", "ordered": False},
        {"string": "python", "missing": "no"},
        5,
        None,
    ],
    ids=str,
)
def test_a_column_has_the_type_that_its_spelling_needs(spelling: Any) -> None:
    told = ENCODED.data | {"columns": [spelling]}
    if spelling == {"string": "python", "missing": "no"}:
        assert frames.decode(told, [bytearray(part) for part in ENCODED.buffers]).shape == (3, 1)
        return
    with pytest.raises((ValueError, TypeError, KeyError, Unencodable)):
        frames.decode(told, [bytearray(part) for part in ENCODED.buffers])


def test_a_dictionary_is_read_as_categories_alone() -> None:
    words = pa.array(["long" * 1000] * 5).dictionary_encode()
    for spelling in ({"objects": "str", "missing": "None"}, "<f8", "string", "str"):
        with pytest.raises(ValueError, match=r"does not (have the form|hold)"):
            frames.decode(
                ENCODED.data | {"columns": [spelling]},
                [stream(column(words)), bytearray(ENCODED.buffers[-1])],
            )


def test_what_the_other_side_changes_afterwards_does_not_show() -> None:
    shared = np.frombuffer(bytes(stream(pa.table({"t": ["abc", "de"], "n": [1, 2]}))), np.uint8)
    memory = shared.copy()
    table = tables.decode(None, [memory.data])
    memory[:] = 255
    assert table.to_pydict() == {"t": ["abc", "de"], "n": [1, 2]}
    table.validate(full=True)
