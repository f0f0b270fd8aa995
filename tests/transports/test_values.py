"""What a host sends is what a filter gets, over every transport, and the same on the way back."""

from __future__ import annotations

import math
import pickle
import threading
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from soma_core import ErrorCode, ProtocolError, RemoteError

from ..support.filters import Echo, Point

LARGE = 1 << 15  # elements: with 8 bytes each, above every threshold of inlining


def _structured() -> np.ndarray:
    array = np.zeros(3, [("x", "<f4", (2,)), ("name", "U3"), ("n", "i8")])
    array["x"], array["name"], array["n"] = 1.5, "abc", [1, 2, 3]
    return array


PLAIN: dict[str, Any] = {
    "None": None,
    "True": True,
    "an int": 7,
    "a long int": -(2**100),
    "a very long int": 10**5000,
    "a float": 0.1,
    "minus zero": -0.0,
    "a tiny float": 5e-324,
    "nan": math.nan,
    "infinity": math.inf,
    "nan in a list": [1.0, math.nan, -math.inf],
    "a text": "é \u2028 \x00 \U0001f600",
    "a lone surrogate": "\ud800",
    "an empty list": [],
    "an empty dict": {},
    "a nested list": [[1, [2.0, None]], ["a", {"b": [True]}]],
    "a dict": {"a": 1, "": {"b": None}},
    "a dict like a Value": {"type": "Tensor", "data": {"values": [1.0], "shape": [1]}},
    "a dict like an Empty": {"type": "Empty"},
    "a dict like a pickle": {"__pickle_b64__": "gASVAAAAAA=="},
    "a dict like a tag": {"$soma": "float", "value": "nan"},
    "bytes": b"\x00\xff soma",
    "no bytes": b"",
    "many bytes": bytes(range(256)) * 1024,
    "a tuple": (1, ("a", b"b"), [2.5]),
    "an empty tuple": (),
    "a list of 100,000 floats": [i / 7 for i in range(100_000)],
}

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES += ["float16", "float32", "float64", "longdouble", "complex64", "complex128", "clongdouble"]
DTYPES += ["datetime64[ns]", "timedelta64[s]", "U5", "S3"]

ARRAYS: dict[str, np.ndarray] = {
    name: np.arange(6).reshape(2, 3).astype(name) for name in DTYPES
} | {
    "structured": _structured(),
    "nan and infinity": np.array([math.nan, math.inf, -0.0]),
    "zero dimensions": np.array(3.5),
    "no elements": np.zeros((0, 3)),
    "no elements last": np.zeros((3, 0), np.int32),
    "Fortran order": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "every second": np.arange(12.0)[::2],
    "backwards": np.arange(12).reshape(3, 4)[::-1, ::-1],
    "broadcast": np.broadcast_to(np.arange(3.0), (4, 3)),
    "read-only": np.frombuffer(b"\x01\x02\x03", np.uint8),
    "large": np.arange(float(LARGE)),
    "large in Fortran order": np.asfortranarray(np.arange(float(LARGE)).reshape(128, -1)),
    "large bools": np.arange(LARGE * 8) % 3 == 0,
}

TENSORS: dict[str, torch.Tensor] = {
    str(dtype): torch.arange(6).reshape(2, 3).to(dtype)
    for dtype in (
        torch.bool,
        torch.uint8,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
        torch.float8_e4m3fn,
    )
} | {
    "nan": torch.tensor([math.nan, -math.inf]),
    "zero dimensions": torch.tensor(2.5),
    "no elements": torch.zeros(0, 4),
    "transposed": torch.arange(12.0).reshape(3, 4).T,
    "large": torch.arange(float(LARGE * 2)),
}

OTHERS: dict[str, Any] = {
    "int keys": {1: "a", 2: [b"b"]},
    "a set": {1, 2},
    "a complex number": 2 + 1j,
    "a dataclass": Point(1.0, 2.0),
    "a dataclass with an array": Point(np.arange(3.0), b"y"),
    "a data frame": pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [0.5, math.nan]}),
    "a large data frame": pd.DataFrame({"a": np.arange(LARGE), "b": np.arange(float(LARGE))}),
    "a masked array": np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False]),
    "an array of objects": np.array([1, "a", None], dtype=object),
    "numpy scalars": [np.float32(0.1), np.int8(-3), np.bool_(True), np.datetime64("2020-01-01")],
    "a numpy text": np.str_("a"),
    "everything nested": {
        "a": [np.arange(3), (torch.arange(2.0), {"b": b"c"})],
        "b": ({1: (2,)}, [math.nan, None]),
    },
    "a tuple of arrays": (np.arange(LARGE), np.arange(3)),
}

CASES = [
    pytest.param(value, id=f"{kind}: {name}")
    for kind, values in (
        ("plain", PLAIN),
        ("array", ARRAYS),
        ("tensor", TENSORS),
        ("other", OTHERS),
    )
    for name, value in values.items()
]


def assert_same(got: Any, expected: Any) -> None:
    """Equal in type, content and element type, all the way down."""
    assert type(got) is type(expected)
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key, item in expected.items():
            assert_same(got[key], item)
    elif isinstance(expected, list | tuple) and type(expected) in (list, tuple):
        assert len(got) == len(expected)
        if len(expected) > 1000:
            assert got == expected
        else:
            for one, other in zip(got, expected, strict=True):
                assert_same(one, other)
    elif isinstance(expected, torch.Tensor):
        assert (got.dtype, got.shape, got.device) == (
            expected.dtype,
            expected.shape,
            expected.device,
        )
        assert (
            got.contiguous().view(torch.uint8).equal(expected.contiguous().view(torch.uint8))
            if expected.dim()
            else torch.equal(got, expected)
        )
    elif isinstance(expected, np.ndarray):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(got, expected)
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(got, expected)
    elif isinstance(expected, Point):
        assert_same(got.x, expected.x)
        assert_same(got.y, expected.y)
    elif isinstance(expected, float):
        assert repr(got) == repr(expected)
    else:
        assert got == expected


# torch itself cannot pickle tensors of such types, which is how the filter shows what it got
PICKLABLE = [case for case in CASES if "float8" not in case.id]


@pytest.mark.parametrize("value", PICKLABLE)
def test_a_filter_gets_what_was_sent(warm, value):
    got, _ = pickle.loads(warm.forward("received", value))
    assert_same(got, value)


@pytest.mark.parametrize("value", CASES)
def test_a_host_gets_what_a_filter_returns(warm, value):
    assert_same(warm.forward("echo", value), value)


@pytest.mark.parametrize("value", [pytest.param(v, id=name) for name, v in ARRAYS.items()])
def test_arrays_are_writable_on_both_sides(warm, value):
    _, writable = pickle.loads(warm.forward("received", value))
    assert writable is True
    assert warm.forward("echo", value).flags.writeable


@pytest.mark.parametrize("dtype", [">f8", ">i4", ">c16", ">U2"])
def test_arrays_arrive_in_native_byte_order(warm, dtype):
    sent = np.arange(3).astype(dtype)
    got = warm.forward("echo", sent)
    assert got.dtype == sent.dtype.newbyteorder("=")
    assert got.dtype.isnative
    np.testing.assert_array_equal(got, sent)


@pytest.mark.parametrize(
    "name", ["bfloat16", "float8_e4m3fn", "float8_e4m3b11fnuz", "int4", "int1"]
)
def test_element_types_of_ml_dtypes_arrive_where_no_filter_imports_them(warm, name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    sent = np.array([[0, 1], [1, 0]]).astype(getattr(ml_dtypes, name))
    came = warm.forward("echo", sent)
    assert came.dtype == sent.dtype
    assert came.tobytes() == sent.tobytes()
    assert type(warm.forward("echo", sent[0, 1])) is type(sent[0, 1])


def test_a_tensor_with_gradients_arrives_as_its_values(warm):
    sent = torch.ones(3, requires_grad=True)
    got = warm.forward("echo", sent)
    assert torch.equal(got, torch.ones(3))


SIZES = [8, LARGE]


@pytest.mark.parametrize("size", SIZES)
def test_what_a_filter_does_to_its_input_does_not_show_in_the_host(warm, size):
    sent = np.ones(size)
    warm.forward("spoil", sent)
    assert (sent == 1).all()


@pytest.mark.parametrize("size", SIZES)
def test_what_a_filter_does_to_a_tensor_does_not_show_in_the_host(warm, size):
    sent = torch.ones(size)
    warm.forward("spoil", sent)
    assert bool((sent == 1).all())


@pytest.mark.parametrize("size", SIZES)
def test_a_filter_may_keep_its_input_whatever_the_host_does_to_it(warm, size):
    sent = np.ones(size)
    warm.fit("keep", sent)
    sent[:] = 0
    assert (warm.forward("keep", None) == 1).all()


@pytest.mark.parametrize("size", SIZES)
def test_what_the_host_does_to_a_result_does_not_show_in_the_filter(warm, size):
    warm.fit("keep", np.ones(size))
    first = warm.forward("keep", None)
    first[:] = 0
    second = warm.forward("keep", None)
    assert (second == 1).all()
    assert (first == 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_results_of_later_calls_leave_earlier_ones_alone(warm, size):
    results = [warm.forward("echo", np.full(size, number)) for number in range(5)]
    for number, result in enumerate(results):
        assert (result == number).all()


@pytest.mark.parametrize("size", SIZES)
def test_data_frames_do_not_share_memory_with_the_host(warm, size):
    sent = pd.DataFrame({"a": np.ones(size)})
    warm.fit("keep", sent)
    sent["a"] = 0.0
    first = warm.forward("keep", None)
    first.loc[:, "a"] = 5.0
    assert (warm.forward("keep", None)["a"] == 1).all()


def test_lists_and_dicts_do_not_share_memory_with_the_host(warm):
    sent = {"a": [1, {"b": 2}]}
    warm.fit("keep", sent)
    sent["a"][1]["b"] = 3
    first = warm.forward("keep", None)
    assert first == {"a": [1, {"b": 2}]}
    first["a"].clear()
    assert warm.forward("keep", None) == {"a": [1, {"b": 2}]}


def test_a_result_outlives_its_worker(connect):
    for transport in ("inline", "stdio", "socket"):
        worker = connect(transport, filters={"echo": Echo()})
        result = worker.forward("echo", np.arange(LARGE))
        worker.close()
        result += 1
        assert result[-1] == LARGE


@pytest.mark.parametrize("depth", [100, 170])
def test_nested_lists_cross(warm, depth):
    value: Any = 1
    for _ in range(depth):
        value = [value]
    assert warm.forward("echo", value) == value


@pytest.mark.parametrize("wrap", [lambda v: (v,), lambda v: {"$soma": v}, lambda v: {"a": [v]}])
def test_what_nests_too_deep_is_refused_and_the_worker_can_be_used_on(warm, wrap):
    value: Any = 1
    for _ in range(150):
        value = wrap(value)
    try:
        outcome = warm.forward("echo", value) == value
    except (ProtocolError, RemoteError) as error:
        outcome = "nest" in str(error) or "recursion" in str(error)
    assert outcome is True
    assert warm.forward("echo", 1) == 1


def test_what_contains_itself_is_refused_before_it_is_sent(warm):
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ProtocolError, match="contains itself") as caught:
        warm.forward("echo", value)
    assert caught.value.code is ErrorCode.TOO_LARGE
    assert warm.forward("echo", 1) == 1


def test_what_does_not_pickle_is_refused_before_it_is_sent(warm):
    with pytest.raises(ProtocolError, match="cannot be sent to another process"):
        warm.forward("echo", threading.Lock())
    assert warm.forward("echo", 1) == 1
