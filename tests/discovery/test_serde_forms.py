"""Filter, FilterMeta, Distribution and Schema: the spellings that other hosts read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

import soma_core as soma
from soma_core.models.filters import Distribution, FilterMeta

DISTRIBUTION: TypeAdapter[Any] = TypeAdapter(Distribution)


def as_json(model: Any) -> Any:
    return json.loads(model.model_dump_json())


@pytest.mark.parametrize(
    ("distribution", "spelling"),
    [
        ("Local", "Local"),
        ("Any", "Any"),
        (soma.Remote(soma.Tag("gpu")), {"Remote": {"Tag": "gpu"}}),
        (soma.Remote(soma.WorkerId("w1")), {"Remote": {"WorkerId": "w1"}}),
    ],
    ids=str,
)
def test_where_a_filter_runs_is_written_as_in_serde(distribution: Any, spelling: Any) -> None:
    assert json.loads(DISTRIBUTION.dump_json(distribution)) == spelling
    assert DISTRIBUTION.validate_json(json.dumps(spelling)) == distribution
    assert DISTRIBUTION.validate_python(spelling) == distribution
    assert as_json(FilterMeta(name="x", distribution=distribution))["distribution"] == spelling


@pytest.mark.parametrize(
    "wrong",
    [
        "local",
        "Remote",
        {"Remote": "gpu"},
        {"Remote": {}},
        {"Remote": {"Tag": "a", "WorkerId": "b"}},
        {"Remote": {"Tag": 5}},
        {"Remote": {"Tag": "a"}, "Local": None},
        {"Tag": "gpu"},
        None,
    ],
    ids=str,
)
def test_another_form_of_where_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        DISTRIBUTION.validate_python(wrong)


def test_kinds_and_modes_have_serdes_names() -> None:
    assert [str(kind) for kind in soma.FilterKind] == ["Stateless", "Trainable", "Opaque"]
    assert [str(mode) for mode in soma.StreamMode] == ["FixedState", "Evolving", "Barrier"]
    assert [*soma.DataType] == [
        "Float64", "Float32", "Float16", "BFloat16", "Int64", "Int32", "Int16", "Int8", "UInt8",
        "Bool", "Utf8", "Bytes", "Json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "spelling", "text"),
    [
        (
            soma.Schema(dtype="Float32", shape=(soma.Dynamic("batch"), soma.Fixed(64))),
            {"dtype": "Float32", "shape": [{"Dynamic": "batch"}, {"Fixed": 64}]},
            "Float32[batch, 64]",
        ),
        (soma.Schema(dtype="Utf8"), {"dtype": "Utf8", "shape": None}, "Utf8"),
        (soma.Schema(dtype="Int64", shape=()), {"dtype": "Int64", "shape": []}, "Int64[]"),
    ],
    ids=str,
)
def test_schemas_are_written_as_in_serde(schema: soma.Schema, spelling: Any, text: str) -> None:
    assert as_json(schema) == spelling
    assert soma.Schema.model_validate_json(json.dumps(spelling)) == schema
    assert str(schema) == text


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"dtype": "float32"},
        {"dtype": "Float8"},
        {"dtype": "Float32", "shape": [64]},
        {"dtype": "Float32", "shape": ["batch"]},
        {"dtype": "Float32", "shape": [{"Fixed": "a"}]},
        {"dtype": "Float32", "shape": [{"Fixed": 1, "Dynamic": "a"}]},
        {"dtype": "Float32", "shape": [{"Fixed": -1}]},
        {"dtype": "Float32", "size": 1},
    ],
    ids=str,
)
def test_another_form_of_a_schema_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        soma.Schema.model_validate(wrong)


AXES = st.integers(0, 10**9).map(soma.Fixed) | st.text().map(soma.Dynamic)
SCHEMAS = st.builds(
    soma.Schema,
    dtype=st.sampled_from(list(soma.DataType)),
    shape=st.none() | st.lists(AXES, max_size=4).map(tuple),
)
METAS = st.builds(
    FilterMeta,
    name=st.text(),
    kind=st.sampled_from(list(soma.FilterKind)),
    cacheable=st.booleans(),
    differentiable=st.booleans(),
    deterministic=st.booleans(),
    stream_mode=st.sampled_from(list(soma.StreamMode)),
    distribution=st.sampled_from(["Local", "Any"])
    | st.text().map(lambda text: soma.Remote(soma.Tag(text)))
    | st.text().map(lambda text: soma.Remote(soma.WorkerId(text))),
    input_schema=st.none() | SCHEMAS,
    output_schema=st.none() | SCHEMAS,
    rowwise=st.booleans(),
)


@given(meta=METAS)
def test_every_meta_survives_json_and_python_data(meta: FilterMeta) -> None:
    text = meta.model_dump_json()
    assert FilterMeta.model_validate_json(text) == meta
    assert FilterMeta.model_validate(json.loads(text)) == meta
    assert FilterMeta.model_validate(meta.model_dump()) == meta
    assert FilterMeta.model_validate_json(text).model_dump_json() == text


def test_a_meta_has_exactly_the_fields_of_the_protocol_in_order() -> None:
    assert as_json(FilterMeta(name="x")) == {
        "name": "x",
        "kind": "Stateless",
        "cacheable": True,
        "differentiable": False,
        "deterministic": True,
        "stream_mode": "FixedState",
        "distribution": "Local",
        "input_schema": None,
        "output_schema": None,
    }
    assert list(FilterMeta.model_fields) == list(as_json(FilterMeta(name="x", rowwise=True)))


def test_a_meta_cannot_be_changed_but_replaced() -> None:
    meta = FilterMeta(name="x")
    with pytest.raises(ValidationError):
        meta.name = "y"
    changed = meta.replace(differentiable=True, kind="Opaque")
    assert (changed.name, changed.differentiable, changed.kind) == ("x", True, "Opaque")
    assert not meta.differentiable
    with pytest.raises(ValidationError):
        meta.replace(kind="Sometimes")
    with pytest.raises(ValidationError):
        meta.replace(colour="red")


class Plain(soma.Filter):
    """Learns nothing."""

    factor: float = 2.0

    def forward(self, x: Any, state: Any) -> Any:
        return x * self.factor


class Learner(Plain):
    """Learns."""

    def fit(self, x: Any, y: Any = None) -> Any:
        return {"n": len(x)}


def test_a_filter_is_its_validated_fields() -> None:
    assert as_json(Plain(factor=3)) == {"factor": 3.0}
    assert Plain.model_validate_json('{"factor": 4}') == Plain(factor=4)
    for wrong in ({"factor": "x"}, {"factr": 1}):
        with pytest.raises(ValidationError):
            Plain(**wrong)


def test_a_filter_describes_itself_by_its_class() -> None:
    assert Plain().meta() == FilterMeta(name="Plain")
    assert Learner().meta() == FilterMeta(name="Learner", kind="Trainable")


def test_a_filter_that_learns_nothing_has_an_empty_state_and_needs_a_forward() -> None:
    assert Plain().fit([1]) == {}
    with pytest.raises(NotImplementedError, match=r"Filter does not define forward\(x, state\)"):
        soma.Filter().forward(1, {})


@pytest.mark.parametrize("choice", [soma.Tag, soma.WorkerId, soma.Fixed, soma.Dynamic, soma.Remote])
def test_a_choice_takes_exactly_one_value(choice: Any) -> None:
    name = choice.__name__
    with pytest.raises(ValidationError, match="Unexpected positional argument"):
        choice("a", "b")
    with pytest.raises(ValidationError, match="multiple"):
        choice("a", **{name: "b"})
    with pytest.raises(ValidationError):
        choice()
