"""Declared schemas are enforced before user code runs, and the error says everything."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import soma_core as soma
from soma_core.models.schema import SchemaMismatch

from ..support.filters import Declared, Tripwire, schema

ROWS = soma.Schema(dtype="Float32", shape=(soma.Dynamic("batch"), soma.Fixed(3)))


@pytest.mark.parametrize(
    ("cmd", "fields"),
    [
        ("FIT", {"node_id": "a"}),
        ("FORWARD", {"node_id": "a"}),
        ("COMPOSITE_FORWARD", {"node_ids": ["a"]}),
        ("COMPOSITE_FIT", {"node_ids": ["a"]}),
        ("BATCHED_FIT", {"node_ids": ["a"]}),
    ],
)
def test_a_wrong_input_is_refused_before_the_filter_sees_it(
    host: Any, refused: Any, cmd: str, fields: Any
) -> None:
    host.load(a=Tripwire(takes=ROWS))
    with pytest.raises(refused) as caught:
        host.ask(cmd, data=np.zeros((2, 4), "f4"), **fields)
    assert caught.value.code == "schema_mismatch"
    assert caught.value.node_id == "a"
    text = str(caught.value)
    assert "the input of node 'a'" in text
    assert "expected Float32[batch, 3]" in text
    assert "got Float32[2, 4]" in text


def test_a_wrong_output_is_refused_by_the_node_that_made_it(host: Any, refused: Any) -> None:
    host.load(a=Declared(gives=ROWS, result=np.zeros((2, 3), "f8")))
    with pytest.raises(refused, match=r"the output of node 'a'.*Float32.*got Float64") as caught:
        host.ask("FORWARD", node_id="a", data=1)
    assert caught.value.code == "schema_mismatch"


def test_a_named_axis_has_one_length_within_a_call(host: Any, refused: Any) -> None:
    shorter = Declared(takes=ROWS, gives=ROWS, result=np.zeros((1, 3), "f4"))
    host.load(a=shorter, b=Declared(takes=ROWS))
    with pytest.raises(refused, match=r"expected Float32\[batch, 3\] \(with batch=2\)"):
        host.ask("FORWARD", node_id="a", data=np.zeros((2, 3), "f4"))
    assert host.ask("FORWARD", node_id="a", data=np.zeros((1, 3), "f4"))["ok"]


def test_a_named_axis_has_one_length_along_a_chain(host: Any, refused: Any) -> None:
    host.load(a=Declared(takes=ROWS, result=np.zeros((5, 3), "f4")), b=Declared(takes=ROWS))
    for cmd in ("COMPOSITE_FORWARD", "COMPOSITE_FIT", "BATCHED_FIT"):
        with pytest.raises(refused, match=r"node 'b'.*with batch=2"):
            host.ask(cmd, node_ids=["a", "b"], data=np.zeros((2, 3), "f4"))


def test_each_batch_may_have_another_length(host: Any) -> None:
    host.load(a=Declared(takes=ROWS, gives=ROWS))
    data = np.zeros((5, 3), "f4")
    assert len(host.ask("BATCHED_FIT", node_ids=["a"], data=data, batch_size=2)["result"]) == 1


FITS = [
    (schema("Float32", "n"), np.zeros(3, "f4")),
    (schema("Float64", "n", "n"), np.zeros((3, 3))),
    (schema("Float64"), np.zeros(())),
    (schema("Float64"), np.float64(1)),
    (schema("Int64", 0), np.zeros(0, "i8")),
    (schema("Bool", "n"), np.zeros(1, "?")),
    (schema("Utf8", "n"), np.array(["a"])),
    (schema("Bytes", "n"), np.array([b"a"])),
    (schema("Float32", "n", 2), [[1, 2.5], [3, 4]]),
    (schema("Float64", "n"), []),
    (schema("Float64", "n", 0), [[], []]),
    (schema("Float64", "n"), (1.0, 2.0)),
    (schema("Float16", "n"), np.zeros(3, "f2")),
    (schema("BFloat16", "n"), [1.5, 2]),
    (schema("Int32", "n"), np.zeros(3, "i4")),
    (schema("Int16", "n"), np.zeros(3, "i2")),
    (schema("Int8", "n"), np.zeros(3, "i1")),
    (schema("UInt8", "n"), np.zeros(3, "u1")),
    (schema("UInt8", "n"), [0, 255]),
    (schema("Int32", "n"), [1.0, -(2**31)]),
    (schema("Int64", "n"), [1, 2]),
    (schema("Int64", "n"), [1.0, 2]),
    (schema("Float64", "n"), [1.5, 10**400]),
    (schema("Bool", "n"), [True]),
    (schema("Utf8", "n"), ["a", "b"]),
    (schema("Utf8"), "text"),
    (schema("Bytes"), b"raw"),
    (schema("Float32"), 5),
    (schema("Json", "n"), [1, "a", None]),
    (soma.Schema(dtype="Json"), {1, 2}),
    (soma.Schema(dtype="Json"), [[1], 2]),
    (soma.Schema(dtype="Float32"), np.zeros((1, 2, 3), "f4")),
]
MISFITS = [
    (schema("Float32", "n"), np.zeros(3, "f8"), "Float64[3]"),
    (schema("Float32", "n"), np.zeros(3, "f2"), "Float16[3]"),
    (schema("Int64", "n"), np.zeros(3, "i4"), "Int32[3]"),
    (schema("Int32", "n"), np.zeros(3, "u4"), "uint32[3]"),
    (schema("UInt8", "n"), [255, 256], "Int64[2]"),
    (schema("UInt8"), -1, "Int64[]"),
    (schema("Int64", "n"), [2**63], "integers of more than 64 bits[1]"),
    (schema("Int8", "n"), [math.nan], "Float64[1]"),
    (schema("Float64", "n", "n"), np.zeros((3, 4)), "Float64[3, 4]"),
    (schema("Float64", "n"), np.zeros((3, 1)), "Float64[3, 1]"),
    (schema("Float64", 2), np.zeros(3), "Float64[3]"),
    (schema("Float64", "n"), 1.0, "Float64[]"),
    (schema("Int64", "n"), [1.5], "Float64[1]"),
    (schema("Int64", "n"), [True], "Bool[1]"),
    (schema("Float64", "n"), [True], "Bool[1]"),
    (schema("Float64", "n"), [1, "a"], "Int64 and Utf8[2]"),
    (schema("Float64", "n"), [1, None], "NoneType"),
    (schema("Float64", "n", "m"), [[1.0], [1.0, 2.0]], "a ragged list"),
    (schema("Float64", "n"), [[1.0], 2.0], "a ragged list"),
    (schema("Utf8"), b"raw", "Bytes"),
    (schema("Bytes"), "text", "Utf8"),
    (soma.Schema(dtype="Float32"), None, "NoneType"),
    (soma.Schema(dtype="Float32"), {"a": 1}, "dict"),
    (soma.Schema(dtype="Utf8"), {}, "dict"),
    (schema("Json", "n"), 5, "Int64[]"),
]


@pytest.mark.parametrize(("declared", "value"), FITS, ids=lambda item: repr(item)[:40])
def test_a_value_that_fits_passes(declared: soma.Schema, value: Any) -> None:
    declared.check(value)
    declared.check(value, {})


@pytest.mark.parametrize(("declared", "value", "came"), MISFITS, ids=lambda item: repr(item)[:40])
def test_a_value_that_does_not_fit_is_described(
    declared: soma.Schema, value: Any, came: str
) -> None:
    with pytest.raises(SchemaMismatch) as caught:
        declared.check(value)
    assert str(caught.value).startswith(f"expected {declared}")
    assert came in str(caught.value)


def test_torch_tensors_are_checked_like_arrays() -> None:
    torch = pytest.importorskip("torch")
    schema("Float32", "n", 2).check(torch.zeros(3, 2))
    schema("Bool", "n").check(torch.zeros(3, dtype=torch.bool))
    schema("BFloat16", "n").check(torch.zeros(3, dtype=torch.bfloat16))
    with pytest.raises(SchemaMismatch, match=r"got BFloat16\[3\]"):
        schema("Float32", "n").check(torch.zeros(3, dtype=torch.bfloat16))


@given(shape=st.lists(st.integers(0, 3), max_size=3))
def test_nested_lists_have_the_shape_that_numpy_sees(shape: list[int]) -> None:
    nested = np.zeros(shape).tolist()
    schema("Float64", *np.asarray(nested).shape).check(nested)
    with pytest.raises(SchemaMismatch):
        schema("Float64", *np.asarray(nested).shape, 1).check(nested)
