"""The six kinds of Value, and the exact JSON in which the protocol spells them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from soma_core.models.values import (
    VALUE,
    Bytes,
    Empty,
    Json,
    Object,
    Tensor,
    TensorData,
    Text,
    Value,
)

TEXT = st.text()
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
NUMBERS = st.lists(st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False))
BYTE_LISTS = st.lists(st.integers(0, 255))


def tensors() -> st.SearchStrategy[Tensor]:
    dtypes = st.sampled_from(["float32", "<U5", [["x", "<f4"], ["y", "<i8", [2]]]])
    shapes = st.lists(st.integers(0, 9)).map(tuple)
    containers = st.sampled_from([None, "torch"])
    plain = st.builds(TensorData, shape=shapes, values=NUMBERS)
    typed = st.builds(
        TensorData, shape=shapes, dtype=dtypes, container=containers, values=NUMBERS
    ) | st.builds(TensorData, shape=shapes, dtype=dtypes, container=containers, b64=TEXT)
    return st.builds(Tensor, data=plain | typed)


def values() -> st.SearchStrategy[Any]:
    return (
        tensors()
        | st.builds(Text, data=TEXT)
        | st.builds(Json, data=JSON)
        | st.builds(Bytes, data=BYTE_LISTS)
        | st.builds(Object, data=BYTE_LISTS)
        | st.builds(Empty)
    )


@given(value=values())
def test_every_value_survives_json_and_is_spelled_the_same_again(value: Any) -> None:
    text = VALUE.dump_json(value, exclude_unset=False)
    again = VALUE.validate_json(text)
    assert type(again) is type(value)
    assert again == value
    assert VALUE.dump_json(again) == text


@given(value=values())
def test_every_value_survives_python_data_too(value: Any) -> None:
    assert VALUE.validate_python(VALUE.dump_python(value)) == value
    assert VALUE.validate_python(json.loads(VALUE.dump_json(value))) == value


@pytest.mark.parametrize(
    ("value", "spelling"),
    [
        (
            Tensor(data=TensorData(values=[1.0, 2.0], shape=(2,))),
            {"type": "Tensor", "data": {"values": [1.0, 2.0], "shape": [2]}},
        ),
        (Json(data={"a": [1, None]}), {"type": "Json", "data": {"a": [1, None]}}),
        (Text(data="hé"), {"type": "Text", "data": "hé"}),
        (Bytes(data=[0, 255]), {"type": "Bytes", "data": [0, 255]}),
        (Object(data=[128, 4]), {"type": "Object", "data": [128, 4]}),
        (Empty(), {"type": "Empty"}),
    ],
    ids=lambda item: type(item).__name__ if not isinstance(item, dict) else "",
)
def test_a_value_is_written_in_the_exact_json_of_the_protocol(
    value: Any, spelling: dict[str, Any]
) -> None:
    assert VALUE.dump_python(value, mode="json", exclude_none=True) == spelling
    assert VALUE.validate_json(json.dumps(spelling)) == value


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"data": "x"},
        {"type": "text", "data": "x"},
        {"type": "Text"},
        {"type": "Text", "data": 1},
        {"type": "Text", "data": "x", "more": 1},
        {"type": "Empty", "data": None},
        {"type": "Json"},
        {"type": "Bytes", "data": [256]},
        {"type": "Bytes", "data": [-1]},
        {"type": "Bytes", "data": [1.0]},
        {"type": "Bytes", "data": [True]},
        {"type": "Bytes", "data": {"b64": "", "buffer": 0}},
        {"type": "Bytes", "data": {}},
        {"type": "Object", "data": "gAQ="},
        {"type": "Tensor", "data": {"shape": [1]}},
        {"type": "Tensor", "data": {"values": [1]}},
        {"type": "Tensor", "data": {"values": [1], "shape": [1.0]}},
        {"type": "Tensor", "data": {"values": [1], "shape": [True]}},
        {"type": "Tensor", "data": {"values": [1], "shape": [-1]}},
        {"type": "Tensor", "data": {"values": [1], "shape": [1], "b64": ""}},
        {"type": "Tensor", "data": {"b64": "", "shape": [0]}},
        {"type": "Tensor", "data": {"buffer": 0, "shape": [0]}},
        {"type": "Tensor", "data": {"buffer": -1, "shape": [0], "dtype": "int8"}},
        {"type": "Tensor", "data": {"values": [1], "shape": [1], "dtype": 4}},
        {"type": "Tensor", "data": {"values": [1], "shape": [1], "container": "jax"}},
        {"type": "Tensor", "data": {"values": [1], "shape": [1], "order": "F"}},
    ],
    ids=repr,
)
def test_what_is_not_exactly_a_value_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        VALUE.validate_json(json.dumps(wrong))


def test_the_value_type_itself_can_be_used_as_a_field_type() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(list[Value])
    assert adapter.validate_python([{"type": "Empty"}]) == [Empty()]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
