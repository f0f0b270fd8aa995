"""pyarrow Tables arrive as they were sent, on the memory that they arrived in."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from soma_core.errors import ProtocolError
from soma_core.wire.line_codec import LineDecoder, LineEncoder
from soma_core.wire.packing import pack
from soma_core.wire.unpacking import unpack

LONG = np.arange(4096)
SCHEMA = pa.schema(
    [pa.field("a", pa.int64(), nullable=False, metadata={"unit": "m"})], metadata={"by": "us"}
)
TABLES: dict[str, pa.Table] = {
    "numbers": pa.table({"a": LONG, "b": LONG * 0.5}),
    "numbers, some missing": pa.table({"a": pa.array([1, None, 3]), "b": [None, None, None]}),
    "texts and lists": pa.table({"t": ["a", None, "é"], "l": [[1], [], None]}),
    "structs": pa.table({"s": [{"x": 1, "y": "a"}, None, {"x": None, "y": "b"}]}),
    "dictionaries": pa.table({"d": pa.array(["a", "b", "a"]).dictionary_encode()}),
    "chunks": pa.table({"a": pa.chunked_array([LONG[:2000], LONG[2000:]]), "b": LONG}),
    "a slice": pa.table({"a": LONG, "t": [str(n) for n in LONG]}).slice(7, 3000),
    "no rows": pa.table({"a": LONG}).slice(0, 0),
    "no columns": pa.table({}),
    "metadata": pa.table({"a": LONG}, schema=SCHEMA),
    "equal names": pa.Table.from_arrays([pa.array(LONG), pa.array(LONG * 2)], names=["x", "x"]),
    "dates": pa.table({"d": pa.array(LONG, pa.timestamp("us", "UTC"))}),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_arrives_as_it_was_sent(name: str, travel: Any) -> None:
    arrived = travel({"table": [TABLES[name]]})["table"][0]
    assert arrived.equals(TABLES[name], check_metadata=True)
    assert arrived.schema.equals(TABLES[name].schema, check_metadata=True)
    arrived.validate(full=True)


def test_columns_of_numbers_are_not_copied_on_either_side(typed_only) -> None:
    table = TABLES["a slice"]
    header, buffers = pack(table, typed_only)
    column = table["a"].chunk(0).to_numpy()
    views = [np.frombuffer(buffer, np.uint8) for buffer in buffers]
    assert any(np.shares_memory(view, column) for view in views)
    received = [bytearray(buffer) for buffer in buffers]
    arrived = unpack(header, received, typed_only)["a"].chunk(0).to_numpy()
    assert any(np.shares_memory(np.frombuffer(part, np.uint8), arrived) for part in received)


def test_a_table_keeps_the_memory_alive_that_it_lies_in(typed_only) -> None:
    wire = LineEncoder(pickles=typed_only).encode(TABLES["texts and lists"])
    arrived = LineDecoder(pickles=typed_only).decode(wire)
    column = arrived["t"]
    del arrived
    gc.collect()
    assert column.to_pylist() == ["a", None, "é"]


def test_offsets_that_lead_out_of_the_buffer_are_refused(typed_only) -> None:
    texts = pa.table({"t": ["abcdefgh"] * 50})
    wire = LineEncoder(pickles=typed_only).encode(texts)
    stream = LineDecoder().binary(wire["buffers"][0])
    offsets = b"".join(n.to_bytes(4, "little") for n in range(0, 51 * 8, 8))
    assert offsets in stream
    lying = stream.replace(offsets, offsets[:-4] + (2**30).to_bytes(4, "little"))
    wire["buffers"] = [{"type": "Bytes", "data": list(lying)}]
    with pytest.raises(ProtocolError, match="not a sound Arrow IPC stream"):
        LineDecoder(pickles=typed_only).decode(wire)


@pytest.mark.parametrize(
    ("data", "buffers"), [(None, []), (None, ["", ""]), ([0], [""]), ([-1], ["", ""]), ({}, [""])]
)
def test_what_is_no_table_is_refused(data: Any, buffers: list[str], typed_only) -> None:
    tag = {"$soma": "codec", "codec": "pyarrow.Table", "data": data, "buffers": buffers}
    with pytest.raises(ProtocolError, match=r"'pyarrow\.Table' of soma-codecs-arrow"):
        LineDecoder(pickles=typed_only).decode(tag)
