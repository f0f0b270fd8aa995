"""Values as JSON hosts write them by hand: tensors as lists, base64, tags in odd places."""

from __future__ import annotations

import base64
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.wire.line_codec import LineDecoder as Decoder


def tensor(**data: Any) -> dict[str, Any]:
    return {"type": "Tensor", "data": data}


def decode(wire: Any, *buffers: bytearray) -> Any:
    return Decoder().decode(wire)


def refused(wire: Any, match: str | None = None, *buffers: bytearray) -> str:
    with pytest.raises(ProtocolError, match=match) as caught:
        decode(wire, *buffers)
    assert caught.value.code is ErrorCode.INVALID_COMMAND
    return str(caught.value)


def attempt(wire: Any, *buffers: bytearray) -> tuple[ErrorCode | None, Any]:
    """The code with which it is refused, or what it stands for."""
    try:
        return None, decode(wire, *buffers)
    except ProtocolError as error:
        return error.code, None


NUMBERS = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False)


@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    numbers=st.lists(NUMBERS, min_size=256, max_size=256),
)
def test_a_tensor_without_dtype_is_nested_lists_of_floats(
    shape: list[int], numbers: list[float]
) -> None:
    values = numbers[: math.prod(shape)]
    arrived = decode(tensor(shape=shape, values=values))
    expected = np.array([float(value) for value in values]).reshape(shape).tolist()
    assert arrived == expected
    leaves = np.array(arrived, dtype=object).ravel().tolist()
    assert all(type(leaf) is float for leaf in leaves)


@pytest.mark.parametrize(
    ("shape", "values", "expected"),
    [
        ([], [7], 7.0),
        ([0], [], []),
        ([1], [7], [7.0]),
        ([2, 1], [1, 2], [[1.0], [2.0]]),
        ([2, 0], [], [[], []]),
        ([0, 2], [], []),
        ([1, 2, 2], [1, 2, 3, 4], [[[1.0, 2.0], [3.0, 4.0]]]),
    ],
    ids=str,
)
def test_the_shape_of_a_tensor_without_dtype_is_kept(
    shape: list[int], values: list[float], expected: Any, identical: Any
) -> None:
    assert identical(decode(tensor(shape=shape, values=values)), expected)


def test_null_in_a_tensor_stands_for_nan(identical: Any) -> None:
    assert identical(decode(tensor(shape=[2], values=[None, 1])), [math.nan, 1.0])
    arrived = decode(tensor(shape=[2], values=[None, 1], dtype="float32"))
    assert identical(arrived, np.array([np.nan, 1], "f4"))


@pytest.mark.parametrize(
    "wrong",
    [
        tensor(shape=[2], values=[1]),
        tensor(shape=[], values=[]),
        tensor(shape=[0], values=[1]),
        tensor(shape=[2, 2], values=[1, 2, 3]),
        tensor(shape=[1], values=["1"]),
        tensor(shape=[1], values=[True]),
        tensor(shape=[1], values=[[1]]),
        tensor(shape=[1], values=[10**400]),
        tensor(shape=[10**30, 0], values=[]),
        tensor(shape=[1]),
        tensor(values=[1]),
        tensor(shape=[1], values=1),
        tensor(shape="1", values=[1]),
        tensor(shape=[1], b64="AAAAAAAA8D8="),
        {"type": "Tensor", "data": [1.0]},
        {"type": "Tensor", "data": None},
    ],
    ids=str,
)
def test_a_tensor_whose_payload_does_not_fit_its_shape_is_refused(wrong: Any) -> None:
    refused(wrong, "Tensor is not well formed")


ENDLESS = """
import resource
from soma_core.errors import ProtocolError
from soma_core.wire.line_codec import LineDecoder as Decoder
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    Decoder().decode({"type": "Tensor", "data": {"shape": [10**10, 0], "values": []}})
except ProtocolError as error:
    print(error.code)
"""


def test_a_shape_that_would_fill_the_memory_with_empty_lists_is_refused() -> None:
    command = [sys.executable, "-c", ENDLESS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "invalid_command\n", done.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        tensor(shape=[1], values=[1], dtype="float31"),
        tensor(shape=[1], values=[1e5], dtype="float16"),
        tensor(shape=[2], values=[1, -1e39], dtype="float32"),
        tensor(shape=[1], values=[1e39], dtype="complex64"),
        tensor(shape=[1], values=[1], dtype=""),
        tensor(shape=[1], values=[1], dtype="O"),
        tensor(shape=[1], values=[1], dtype="object"),
        tensor(shape=[1], values=[1], dtype="T"),
        tensor(shape=[1], values=[1], dtype="i4,i4"),
        tensor(shape=[1], values=[2**70], dtype="<U100000000"),
        tensor(shape=[1], values=[1], dtype="S4"),
        tensor(shape=[1], values=[1], dtype=[["a", "<f8", [1 << 28]]]),
        tensor(shape=[1], b64="AAAAAA==", dtype="2i2"),
        tensor(shape=[1], values=[1], dtype=[["a", "O"]]),
        tensor(shape=[1], values=[1], dtype=[["a", [["b", "|O"]]]]),
        tensor(shape=[1], values=[1], dtype=["a"]),
        tensor(shape=[1], values=[1], dtype=[[]]),
        tensor(shape=[1], values=[1], dtype=[["a", "<i4", [-1]]]),
        tensor(shape=[1], values=[1], dtype=[["a", "<i4"], ["a", "<i4"]]),
        tensor(shape=[1], values=[1], dtype=[[["a"], 4]]),
        tensor(shape=[1], values=[1], dtype="bfloat16"),
        tensor(shape=[1], b64="AAA", dtype="float32"),
        tensor(shape=[1], b64="AA==", dtype="float32"),
        tensor(shape=[1], b64="AAAAAAAA", dtype="float32"),
        tensor(shape=[2**62, 2**62, 0], b64="", dtype="float32"),
        tensor(shape=[10**30, 0], b64="", dtype="float32"),
        tensor(shape=[1] * 100, b64="AAAAAA==", dtype="float32"),
        tensor(shape=[2], values=[1], dtype="float32"),
        tensor(shape=[1], values=["a"], dtype="float32"),
        tensor(shape=[1], values=[{}], dtype="float32"),
        tensor(shape=[1], values=[300], dtype="uint8"),
        tensor(shape=[1], values=[-1], dtype="uint8"),
        tensor(shape=[1], values=[None], dtype="int32"),
        tensor(shape=[1], values=[10**30], dtype="int64"),
        tensor(shape=[1], values=[10**400], dtype="float64"),
    ],
    ids=lambda wrong: str(wrong["data"]),
)
def test_an_array_that_cannot_be_is_refused(wrong: Any) -> None:
    refused(wrong, "Tensor is not well formed|not valid base64")


@pytest.mark.parametrize("shape", [None, 3, "1", {}, [None], [[1]], [True], [-1]])
def test_a_shape_that_is_none_is_refused_where_the_bytes_would_fit(shape: Any) -> None:
    wrong = tensor(shape=shape, buffer=0, dtype="float64")
    refused(wrong, "Tensor is not well formed", bytearray(8))


def test_values_that_their_dtype_cannot_hold_are_refused_and_not_rounded() -> None:
    refused(tensor(shape=[1], values=[1.5], dtype="int32"), "Tensor is not well formed")
    refused(tensor(shape=[1], values=["1"], dtype="float32"), "Tensor is not well formed")


@pytest.mark.filterwarnings("ignore:Data type alias 'a'")
@given(spelling=st.text(max_size=6))
def test_any_text_as_dtype_is_an_array_or_refused(spelling: str) -> None:
    code, arrived = attempt(tensor(shape=[0], b64="", dtype=spelling))
    assert code is ErrorCode.INVALID_COMMAND or isinstance(arrived, np.ndarray)


FIELD_LISTS = st.recursive(
    st.sampled_from(["", "a", "<f4", "|V3", ">i2", "O", "|S2"]) | st.integers(-2, 3) | st.none(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.filterwarnings("ignore:Data type alias 'a'")
@given(spelling=st.lists(FIELD_LISTS, max_size=3))
def test_any_list_as_dtype_is_an_array_or_refused(spelling: Any) -> None:
    code, arrived = attempt(tensor(shape=[0], b64="", dtype=spelling))
    assert code is ErrorCode.INVALID_COMMAND or isinstance(arrived, np.ndarray)


def test_arrays_are_decoded_from_values_and_base64_alike(identical: Any) -> None:
    expected = np.array([[1, 2], [3, 4]], "<i4")
    raw = expected.tobytes()
    b64 = base64.b64encode(raw).decode()
    for wire in (
        tensor(shape=[2, 2], dtype="int32", values=[1, 2, 3, 4]),
        tensor(shape=[2, 2], dtype="<i4", b64=b64),
        tensor(shape=[2, 2], dtype=">i4", b64=b64),  # the bytes are little-endian always
    ):
        arrived = decode(wire)
        assert identical(arrived, expected)
        arrived[0, 0] = 9


@pytest.mark.parametrize("index", [1, 7, -1, True, 0.0, "0", None])
def test_a_line_has_no_buffers(index: Any) -> None:
    for wire in (
        tensor(shape=[2], dtype="int8", buffer=index),
        {"type": "Bytes", "data": {"buffer": index}},
        {"type": "Object", "data": {"buffer": index}},
        {"type": "Object", "data": {"b64": "gAROLg==", "buffers": [index]}},
    ):
        refused(wire, None, bytearray(b"ab"))


def test_bytes_come_as_numbers_or_base64() -> None:
    assert decode({"type": "Bytes", "data": [0, 255]}) == b"\x00\xff"
    assert decode({"type": "Bytes", "data": []}) == b""
    assert decode({"type": "Bytes", "data": {"b64": "AP8="}}) == b"\x00\xff"
    for wrong in ([256], [-1], ["a"], [1.5], "AP8=", {"b64": "AP8"}, {"b64": "é"}, None, 5):
        refused({"type": "Bytes", "data": wrong})


def test_text_and_empty_and_json_stand_for_what_they_hold() -> None:
    assert decode({"type": "Text", "data": "a"}) == "a"
    assert decode({"type": "Empty"}) is None
    assert decode({"type": "Json", "data": {"a": [1]}}) == {"a": [1]}
    refused({"type": "Text", "data": 5}, "string")


def test_empty_is_an_empty_dict_as_a_state_and_none_inside_one() -> None:
    assert Decoder().state({"type": "Empty"}) == {}
    assert Decoder().state({"a": {"type": "Empty"}}) == {"a": None}
    assert Decoder().state(None) is None
    assert Decoder().state({}) == {}


def test_tags_inside_json_are_decoded_at_any_depth(identical: Any) -> None:
    inner = tensor(shape=[1], dtype="float32", values=[1])
    wrapped = {"type": "Json", "data": {"a": [{"type": "Json", "data": {"b": inner}}]}}
    assert identical(decode(wrapped), {"a": [{"b": np.ones(1, "f4")}]})
    assert decode({"type": "Json", "data": {"type": "Text", "data": "x"}}) == "x"
    assert decode([{"type": "Bytes", "data": [1]}]) == [b"\x01"]


def test_a_dict_is_a_tag_only_if_its_keys_are_exactly_those_of_one() -> None:
    for plain in (
        {"type": "Tensor", "data": {}, "unit": "m"},
        {"type": "Tensors", "data": {}},
        {"type": "Tensor"},
        {"type": 1, "data": 2},
        {"__pickle_b64__": "x", "y": 1},
        {"type": "Empty", "data": 1},
    ):
        assert decode(plain) == plain


@pytest.mark.parametrize(
    "wrong",
    [
        {"$soma": "unheard of"},
        {"$soma": 5},
        {"$soma": None},
        {"$soma": ["float"], "value": "nan"},
        {"$soma": "float"},
        {"$soma": "float", "value": "1.5"},
        {"$soma": "float", "value": 1},
        {"$soma": "float", "value": []},
        {"$soma": "floats"},
        {"$soma": "floats", "buffer": "0"},
        {"$soma": "floats", "buffer": True},
        {"$soma": "floats", "buffer": [0]},
        {"$soma": "int", "value": "zz"},
        {"$soma": "int", "value": 5},
        {"$soma": "int"},
        {"$soma": "dict"},
        {"$soma": "dict", "items": 5},
        {"$soma": "dict", "items": [["a"]]},
        {"$soma": "dict", "items": [[[], 1]]},
        {"$soma": "dict", "items": [[5, 1]]},
        {"$soma": "tuple"},
        {"$soma": "tuple", "items": 5},
        {"$soma": "tuple", "items": "ab"},
        {"$soma": "scalar"},
        {"$soma": "scalar", "array": 5},
        {"$soma": "scalar", "array": [1]},
        {"$soma": "scalar", "array": {"a": 1}},
    ],
    ids=str,
)
def test_a_soma_tag_that_is_not_well_formed_is_refused_by_name(wrong: Any) -> None:
    refused(wrong, r"\$soma")
    refused({"a": [wrong]}, r"\$soma")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats()
    | st.sampled_from(["Tensor", "Json", "Object", "Empty", "float", "int8", "torch", "AAAA", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "data",
                    "$soma",
                    "value",
                    "items",
                    "shape",
                    "dtype",
                    "values",
                    "b64",
                    "buffer",
                    "container",
                    "array",
                    "__pickle_b64__",
                    "buffers",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(wire=JSON)
def test_whatever_json_comes_is_decoded_or_refused(wire: Any) -> None:
    code, _ = attempt(wire, bytearray(b"abcd"))
    assert code in (None, ErrorCode.INVALID_COMMAND)


def test_from_value_reads_what_the_original_host_sends(identical: Any) -> None:
    original = {"type": "Tensor", "data": {"values": [1.0, 2.0, 3.0, 4.0], "shape": [2, 2]}}
    assert identical(Decoder().decode(original), [[1.0, 2.0], [3.0, 4.0]])
