"""DataFrames and Series arrive as they were sent, or are not sent as typed values."""

from __future__ import annotations

import datetime
import decimal
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.wire.line_codec import LineDecoder, LineEncoder
from soma_core.wire.packing import pack
from soma_core.wire.unpacking import unpack

ROWS = 5
DAYS = pd.date_range("2024-01-01", periods=ROWS, freq="D")
ODD_NAN = np.array([0x7FF8_0000_0000_0BAD], "uint64").view("float64")

ARRAYS: dict[str, Any] = {
    **{kind: np.arange(ROWS).astype(kind) for kind in ("int8", "uint16", "int32", "uint64")},
    **{kind: np.linspace(-1, 1, ROWS).astype(kind) for kind in ("float32", "float64")},
    "bool": np.arange(ROWS) % 2 == 0,
    "complex128": np.arange(ROWS) + 1j,
    "nan and -0.0": np.array([math.nan, -0.0, math.inf, 0.0, 1.0]),
    "a nan of other bits": np.repeat(ODD_NAN, ROWS),
    "strided": np.arange(2.0 * ROWS)[::2],
    "datetime64[ns]": DAYS.to_numpy().astype("datetime64[ns]"),
    "datetime64[s] with NaT": np.array(["2024-01-01", "NaT"] + ["2024-01-02"] * 3, "M8[s]"),
    "timedelta64[ms]": np.arange(ROWS).astype("m8[ms]"),
    "a time zone": DAYS.tz_localize("Europe/Berlin").array,
    "a fixed offset": DAYS.tz_localize(datetime.timezone(datetime.timedelta(hours=2))).array,
    "periods": DAYS.to_period("M").array,
    "intervals": pd.interval_range(0, ROWS).array,
    "Int64": pd.array([1, None, 3, 4, 5], dtype="Int64"),
    "Float64": pd.array([1.5, None, 3, 4, 5], dtype="Float64"),
    "boolean": pd.array([True, None, False, True, True], dtype="boolean"),
    "string[python]": pd.array(["a", None, "", "é", "\U0001f600"], dtype="string[python]"),
    "string[pyarrow]": pd.array(["a", None, "", "é", "\U0001f600"], dtype="string[pyarrow]"),
    "str": pd.Series(["a", None, "", "é", "z"], dtype="str").array,
    "ArrowDtype": pd.array([1, None, 3, 4, 5], dtype=pd.ArrowDtype(pa.int16())),
    "lists of ArrowDtype": pd.array(
        [[1], None, [], [2, 3], [4]], pd.ArrowDtype(pa.list_(pa.int8()))
    ),
    "category": pd.Categorical(["b", "a", None, "b", "a"]),
    "ordered category": pd.Categorical([1, 2, 1, 3, 2], categories=[3, 2, 1, 9], ordered=True),
    "category of dates": pd.Categorical(DAYS),
    "objects: texts": np.array(["a", "b", None, "", "c"], object),
    "objects: texts and nan": np.array(["a", math.nan, "b", "", "c"], object),
    "objects: texts and NA": np.array(["a", pd.NA, "b", "", "c"], object),
    "objects: bytes": np.array([b"a", b"\x00", b"", None, b"b"], object),
    "objects: ints": np.array([1, 2, None, -4, 2**62], object),
    "objects: bools": np.array([True, None, False, True, True], object),
    "objects: dates": np.array([datetime.date(2024, 2, 29)] * ROWS, object),
    "objects: None": np.array([None] * ROWS, object),
}
"""An array of each dtype, by name."""

INDEXES: dict[str, Any] = {
    "range": pd.RangeIndex(3, 3 + 2 * ROWS, 2, name="n"),
    "ints": pd.Index([5, 3, 3, 1, 0], name=7),
    "floats": pd.Index([0.5, math.nan, 1.0, 2.0, 3.0]),
    "texts": pd.Index(list("abcde"), name=("a", 1)),
    "object texts": pd.Index(list("abcde"), dtype=object),
    "dates": DAYS,
    "dates without frequency": pd.DatetimeIndex(["2024-01-01", "2024-01-05"] * 2 + ["2025-01-01"]),
    "dates in a zone": DAYS.tz_localize("UTC"),
    "timedeltas": pd.timedelta_range("1h", periods=ROWS, freq="h"),
    "periods": DAYS.to_period("D"),
    "intervals": pd.interval_range(0.0, ROWS, closed="left"),
    "categories": pd.CategoricalIndex(list("abcab"), categories=list("cba")),
    "several": pd.MultiIndex.from_arrays([list("aabbc"), [1, 2, 1, 2, 1]], names=["x", None]),
    "several with gaps": pd.MultiIndex(
        levels=[["a", "b"], DAYS], codes=[[0, 1, -1, 0, 0], [0, 1, 2, 3, -1]]
    ),
    "of several types": pd.Index(["a", 1, ("b", 2.5), None, True], tupleize_cols=False),
    "masked": pd.Index(pd.array([1, None, 3, 4, 5], dtype="Int64")),
}
"""An index of each kind, by name."""


def series(name: str) -> pd.Series:
    """One of the arrays, of the dtype that it has: pandas would make texts of objects."""
    values = ARRAYS[name]
    return pd.Series(values, dtype=values.dtype, copy=False)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_column_of_any_dtype_arrives_as_it_was_sent(name: str, travel: Any) -> None:
    frame = pd.DataFrame({"x": series(name)}, copy=False)
    arrived = travel(frame)
    pd.testing.assert_frame_equal(arrived, frame, check_exact=True, check_freq=True)
    values, sent = arrived["x"].array, frame["x"].array
    assert type(values) is type(sent)
    if frame["x"].dtype == object:
        assert [type(value) for value in values] == [type(value) for value in sent]
    elif isinstance(frame["x"].dtype, np.dtype):
        assert arrived["x"].to_numpy().tobytes() == frame["x"].to_numpy().tobytes()


@pytest.mark.parametrize("name", ARRAYS)
def test_a_series_of_any_dtype_arrives_as_it_was_sent(name: str, travel: Any) -> None:
    sent = series(name).set_axis(DAYS).rename(("a", 2))
    pd.testing.assert_series_equal(travel(sent), sent, check_exact=True, check_freq=True)


@pytest.mark.parametrize("name", INDEXES)
def test_rows_and_columns_keep_their_labels(name: str, travel: Any) -> None:
    index = INDEXES[name]
    frame = pd.DataFrame(np.arange(1.0 * ROWS * ROWS).reshape(ROWS, ROWS), index=index)
    wide = frame.T
    for sent in (frame, wide):
        arrived = travel(sent)
        pd.testing.assert_frame_equal(arrived, sent, check_exact=True, check_freq=True)
        for found, wanted in ((arrived.index, sent.index), (arrived.columns, sent.columns)):
            pd.testing.assert_index_equal(found, wanted, exact=True)
            assert list(found.names) == list(wanted.names)


@pytest.mark.parametrize("name", [*ARRAYS, "a mixture"])
def test_a_frame_without_rows_keeps_its_dtypes(name: str, travel: Any) -> None:
    names = ARRAYS if name == "a mixture" else [name]
    whole = pd.DataFrame({name: series(name) for name in names})
    pd.testing.assert_frame_equal(travel(whole.iloc[:0]), whole.iloc[:0])


def test_frames_without_columns_with_equal_labels_and_with_attributes_arrive(travel: Any) -> None:
    equal = pd.DataFrame([[1, 2.5, "a"]], columns=["x", "x", 3])
    told = pd.DataFrame({"x": [1]})
    told.attrs = {"unit": "m", "scale": np.arange(3)}
    told.flags.allows_duplicate_labels = False
    for sent in (equal, pd.DataFrame(index=DAYS), pd.DataFrame(columns=["a"]), pd.DataFrame()):
        pd.testing.assert_frame_equal(travel(sent), sent)
    arrived = travel(told)
    assert (arrived.attrs["unit"], arrived.attrs["scale"].tolist()) == ("m", [0, 1, 2])
    assert not arrived.flags.allows_duplicate_labels


UNFIT: dict[str, Any] = {
    "decimals": ([decimal.Decimal("1.10")], "x.*Decimal"),
    "several types": (["a", 1], "x.*int, str"),
    "several kinds of missing": (np.array(["a", None, math.nan], object), "x.*None, nan, str"),
    "too large an int": (np.array([2**70], object), "x.*object"),
    "half a character": (np.array(["\ud800"], object), "x.*object"),
    "sparse": (pd.arrays.SparseArray([0, 0, 1]), "x.*Sparse"),
    "the other byte order": (np.arange(3, dtype=">i4"), "x.*>i4"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_arrow_cannot_keep_is_refused_by_name_where_pickles_are(name, typed_only) -> None:
    content, said = UNFIT[name]
    column = pd.Series(content, dtype=getattr(content, "dtype", object))
    frame = pd.DataFrame({"x": column})
    with pytest.raises(ProtocolError, match=f"soma-codecs-arrow says: column '{said}") as caught:
        pack(frame, typed_only)
    assert caught.value.code is ErrorCode.PICKLE_REFUSED


def test_a_class_derived_from_a_frame_is_not_taken_for_one(typed_only) -> None:
    class Tagged(pd.DataFrame):
        pass

    with pytest.raises(ProtocolError, match="Tagged can only travel as a pickle"):
        pack(Tagged({"x": [1]}), typed_only)


def test_numbers_are_not_copied_and_arrive_writable(typed_only) -> None:
    frame = pd.DataFrame({name: np.arange(4096.0) for name in "ab"}, index=np.arange(4096) * 2)
    header, buffers = pack(frame, typed_only)
    views = [np.frombuffer(buffer, np.uint8) for buffer in buffers]
    for sent in (frame["a"], frame["b"], frame.index):
        assert any(np.shares_memory(view, sent.to_numpy()) for view in views)
    received = [bytearray(buffer) for buffer in buffers]
    arrived = unpack(header, received, typed_only)
    memory = [np.frombuffer(buffer, np.uint8) for buffer in received]
    assert any(np.shares_memory(part, arrived["a"].to_numpy()) for part in memory)
    arrived.iloc[0, 0] = arrived.loc[2, "b"] = -1.0
    assert (arrived.iloc[0, 0], arrived.iloc[1, 1], frame.iloc[0, 0]) == (-1.0, -1.0, 0.0)


def test_a_host_in_another_language_sends_a_stream_or_lists(typed_only) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=[5, 6])
    table = pa.Table.from_pandas(frame)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream = {"type": "Bytes", "data": list(sink.getvalue().to_pybytes())}
    decode = LineDecoder(pickles=typed_only).decode
    tag = {"$soma": "codec", "codec": "pandas.DataFrame"}
    pd.testing.assert_frame_equal(decode(tag | {"buffers": [stream]}), frame)
    lists = {"columns": {"a": [1, 2], "b": ["x", None]}}
    pd.testing.assert_frame_equal(decode(tag | {"data": lists}), frame.reset_index(drop=True))
    series = {"$soma": "codec", "codec": "pandas.Series", "data": {"values": [1, 2]}}
    pd.testing.assert_series_equal(decode(series), pd.Series([1, 2]))


def test_in_a_line_a_frame_is_one_stream_that_any_arrow_library_reads(typed_only) -> None:
    frame = pd.DataFrame({"a": np.arange(5000), "b": "x"})
    wire = LineEncoder(pickles=typed_only).encode(frame)
    columns = LineDecoder().binary(wire["buffers"][0])
    table = pa.ipc.open_stream(columns).read_all()
    assert table.column_names == ["a", "b"]
    assert table["a"].to_pylist() == frame["a"].tolist()


DAMAGED: dict[str, Any] = {
    "no buffers": {"buffers": []},
    "no data": {"data": {}},
    "data of another kind": {"data": [1]},
    "no stream": {"buffers": ["AAAA", "AAAA"]},
    "lists of two lengths": {"data": {"columns": {"a": [1], "b": [1, 2]}}, "buffers": []},
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_frame_is_refused_and_the_codec_named(name: str, typed_only) -> None:
    wire = LineEncoder(pickles=typed_only).encode(pd.DataFrame({"a": [1, 2]}))
    with pytest.raises(ProtocolError, match=r"'pandas\.DataFrame' of soma-codecs-arrow") as caught:
        LineDecoder(pickles=typed_only).decode(wire | DAMAGED[name])
    assert caught.value.code is ErrorCode.INVALID_COMMAND


@pytest.mark.parametrize(
    "changes",
    [
        {"columns": ["int64"]},
        {"columns": ["int64", "no such dtype"]},
        {"columns": ["float64", "int64"]},
        {"apart": [0]},
        {"apart": [7]},
        {"labels": {"range": [0, 9, 1], "names": [None]}},
        {"index": {"range": [0, 9, 1], "names": [None]}},
        {"index": {"values": "int64", "names": [None]}},
    ],
    ids=str,
)
def test_a_frame_whose_parts_disagree_is_refused(changes: Any, typed_only) -> None:
    wire = LineEncoder(pickles=typed_only).encode(pd.DataFrame({"a": [1, 2], "b": [3, 4]}))
    wire["data"] |= changes
    with pytest.raises(ProtocolError, match="of soma-codecs-arrow could not"):
        LineDecoder(pickles=typed_only).decode(wire)
