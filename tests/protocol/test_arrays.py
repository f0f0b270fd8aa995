"""numpy arrays of every element type and layout, through both dialects, to the last bit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

SIMPLE = [
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
    "longdouble",
    "complex64",
    "complex128",
    "clongdouble",
    "datetime64[ns]",
    "datetime64[D]",
    "datetime64[25s]",
    "datetime64",
    "timedelta64[ms]",
    "timedelta64[7D]",
    "timedelta64",
    "<U5",
    "<U0",
    "S3",
    "S0",
    "V7",
]
STRUCTURED: dict[str, Any] = {
    "flat": [("x", "f4"), ("n", "i8"), ("name", "U3")],
    "one field": [("x", "f4")],
    "nested": [("pos", [("x", "f4"), ("y", "f4")]), ("ok", "?")],
    "nested twice": [("a", [("b", [("c", "i2")])])],
    "subarray": [("m", "f4", (2, 3)), ("v", "i2", (4,)), ("s", "f8", ())],
    "subarray of records": [("rows", [("a", "i1"), ("b", "f8")], (2,))],
    "padded": np.dtype([("a", "i1"), ("b", "f8"), ("c", "i2")], align=True),
    "padded and nested": np.dtype(
        [("a", "i1"), ("b", np.dtype([("c", "i1"), ("d", "f8")], align=True)), ("e", "i1")],
        align=True,
    ),
    "padded at the end": np.dtype(
        {"names": ["a"], "formats": ["i2"], "offsets": [0], "itemsize": 16}
    ),
    "selected fields": np.zeros(1, [("a", "i4"), ("b", "f8"), ("c", "i2")])[["a", "c"]].dtype,
    "out of order": np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [4, 0]}),
    "titled": [(("a long title", "a"), "i4")],
    "big-endian": [("x", ">f4"), ("n", ">i8"), ("t", ">U2"), ("d", ">M8[s]")],
    "big-endian subarray": [("a", "i4"), ("v", ">f4", (2,)), ("d", ">M8[Y]", (1,))],
    "mixed endian": [("x", ">f4"), ("n", "<i2"), ("sub", [("y", ">c8")])],
    "dates": [("when", "M8[us]"), ("long", "m8[h]")],
    "odd names": [("with space", "i4"), ("é", "i4"), ("type", "i4"), ("$soma", "i4")],
    "no fields": [],
}
SHAPES = [(), (0,), (1,), (5,), (2, 3), (0, 4), (4, 0, 2), (1, 1, 1, 1), (2, 3, 4)]


def filled(dtype: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """An array whose bytes are all different from zero where the type allows it."""
    dtype = np.dtype(dtype)
    out = np.zeros(shape, dtype)
    if dtype.names is not None:
        for name in dtype.names:
            out[name] = filled(dtype[name].base, out[name].shape)
        return out
    count = np.arange(1, out.size + 1).reshape(shape)
    if dtype.kind in "US":
        out[...] = np.array(
            [f"{n}é"[: 5 if dtype.kind == "U" else 1] for n in count.ravel()]
        ).reshape(shape)
    elif dtype.kind == "V":
        out[...] = np.frombuffer(bytes(range(1, 1 + dtype.itemsize)), dtype)[0]
    elif dtype.kind == "b":
        out[...] = count % 2
    elif dtype.kind in "mM":
        out[...] = count.astype(dtype)
    else:
        out[...] = (count * (1.25 if dtype.kind in "fc" else 1)).astype(dtype)
    return out


def in_native_order(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.astype(array.dtype.newbyteorder("="))


def arrives(wire: Any, identical: Any, array: np.ndarray[Any, Any]) -> None:
    before = array.copy()
    arrived = wire(array)
    assert type(arrived) is np.ndarray
    assert identical(arrived, in_native_order(array))
    assert arrived.dtype.isnative
    assert arrived.flags.writeable
    assert arrived.flags.c_contiguous or arrived.strides == array.strides
    assert not np.shares_memory(arrived, array)
    if arrived.size and arrived.dtype.itemsize:
        arrived[...] = np.zeros((), arrived.dtype)
    assert identical(array, before)


@pytest.mark.parametrize("dtype", SIMPLE)
def test_every_element_type_arrives_in_every_shape(wire: Any, identical: Any, dtype: str) -> None:
    for shape in SHAPES:
        arrives(wire, identical, filled(dtype, shape))


@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_types_arrive_with_their_layout(wire: Any, identical: Any, name: str) -> None:
    dtype = np.dtype(STRUCTURED[name])
    for shape in [(), (0,), (3,), (2, 0), (2, 2)]:
        array = filled(dtype, shape)
        arrives(wire, identical, array)
        assert wire(array).dtype.itemsize == dtype.itemsize


@pytest.mark.parametrize("dtype", ["i2", "u8", "f2", "f4", "f8", "g", "c8", "U3", "M8[s]", "m8[D]"])
def test_foreign_byte_order_arrives_in_the_native_one(
    wire: Any, identical: Any, dtype: str
) -> None:
    arrives(wire, identical, filled(dtype, (2, 3)).astype(np.dtype(dtype).newbyteorder(">")))


LAYOUTS: dict[str, Any] = {
    "fortran": np.asfortranarray,
    "transposed": lambda a: a.T,
    "axes swapped": lambda a: a.transpose(1, 2, 0),
    "every other": lambda a: a[::2, :, ::3],
    "reversed": lambda a: a[::-1],
    "reversed twice": lambda a: a[:, ::-1, ::-2],
    "broadcast": lambda a: np.broadcast_to(a[0], a.shape),
    "a column": lambda a: a[:, 1, :],
    "one element": lambda a: a[1, 1, 1:2],
    "no elements": lambda a: a[:, 2:1],
    "without axes": lambda a: a[1, 1, 1, ...],
    "not writable": lambda a: _frozen(a),
    "not aligned": lambda a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1),
    "new axis": lambda a: a[None, :, None, ::-1],
}


def _frozen(array: Any) -> Any:
    frozen = array.copy()
    frozen.flags.writeable = False
    return frozen


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_memory_layout_arrives(wire: Any, identical: Any, layout: str) -> None:
    for dtype in ("float32", "int64", "bool", "complex128", ">f8", "U2", "V3"):
        arrives(wire, identical, LAYOUTS[layout](filled(dtype, (4, 3, 6))))


def test_a_strided_view_of_records_arrives(wire: Any, identical: Any) -> None:
    records = filled(STRUCTURED["padded"], (6,))
    arrives(wire, identical, records[::-2])
    arrives(wire, identical, records["b"])


NATIVE_DTYPES = (
    hnp.scalar_dtypes()
    | hnp.unicode_string_dtypes(max_len=4)
    | hnp.byte_string_dtypes(max_len=4)
    | hnp.array_dtypes(max_size=4)
    | hnp.nested_dtypes(max_itemsize=100)
)


@given(
    array=hnp.arrays(
        NATIVE_DTYPES.filter(lambda dtype: dtype.subdtype is None),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    )
)
def test_any_array_arrives(wire: Any, identical: Any, array: np.ndarray[Any, Any]) -> None:
    arrives(wire, identical, array)


@given(bits=st.binary(min_size=8, max_size=64).filter(lambda bits: len(bits) % 8 == 0))
def test_every_bit_pattern_of_a_float_arrives(wire: Any, identical: Any, bits: bytes) -> None:
    for dtype in ("f8", "f4", "f2", "c8", "M8[s]"):
        arrives(wire, identical, np.frombuffer(bits, dtype))


def test_lines_write_finite_real_numbers_readably_and_everything_else_as_base64(line: Any) -> None:
    def data(array: Any) -> Any:
        return json.loads(line.write(array)[0])["data"]

    assert data(np.array([[1, 2], [3, 4]], order="F")) == {
        "dtype": "int64",
        "shape": [2, 2],
        "values": [1, 2, 3, 4],
    }
    assert data(np.float16([0.5]))["values"] == [0.5]
    for unreadable in (
        np.array([np.nan]),
        np.array([np.inf]),
        np.array([1j]),
        np.array([True]),
        np.array(["a"]),
        np.array(["2026-01-01"], dtype="M8[D]"),
        np.longdouble([1.5]),
    ):
        assert data(unreadable).keys() == {"dtype", "shape", "b64"}
