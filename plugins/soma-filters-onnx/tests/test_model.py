"""An ONNX model runs in a worker as ONNX Runtime runs it here."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma_core as soma
from soma_core.plugins.catalog import installed_filters
from soma_core.testing import FilterConformance

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
helper, Types = onnx.helper, onnx.TensorProto

_INSTALLED = "onnx.Model" in installed_filters().names()
X = np.arange(12, dtype="f4").reshape(6, 2)


def _model(nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any]) -> bytes:
    described = [
        [helper.make_tensor_value_info(name, kind, ["rows", 2]) for name, kind in side.items()]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "graph", *described)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


DOUBLE = _model(
    [helper.make_node("Add", ["x", "x"], ["y"])], {"x": Types.FLOAT}, {"y": Types.FLOAT}
)
PAIR = _model(
    [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["gap"])],
    {"a": Types.INT32, "b": Types.INT32},
    {"sum": Types.INT32, "gap": Types.INT32},
)


@pytest.fixture(scope="module")
def model_class() -> Any:
    from soma_filters_onnx.model import Model

    return Model


@pytest.fixture
def inline() -> Iterator[soma.Worker]:
    with soma.connect("inline") as worker:
        yield worker


class TestConformance(FilterConformance):
    def build(self) -> Any:
        from soma_filters_onnx.model import Model

        return Model(model=DOUBLE)

    def data(self) -> Any:
        return X.copy()


@pytest.mark.skipif(not _INSTALLED, reason="soma-filters-onnx is not installed")
def test_a_model_runs_from_a_file_without_pickles(tmp_path: Path) -> None:
    path = tmp_path / "double.onnx"
    path.write_bytes(DOUBLE)
    config = {"path": str(path), "threads": 1, "parallel_threads": 1, "optimization": "basic"}
    filters = {"it": ("onnx.Model", config)}
    with soma.connect("stdio", pickle="never", filters=filters) as worker:
        np.testing.assert_array_equal(worker.forward("it", X), X * 2)


def test_a_model_comes_as_bytes_or_as_base64_in_json(inline: soma.Worker, model_class: Any) -> None:
    spelled = {"model": base64.b64encode(DOUBLE).decode()}
    assert model_class(**spelled).model_dump(mode="json", exclude_unset=True) == spelled
    inline.load({"it": model_class(**spelled)})
    np.testing.assert_array_equal(inline.forward("it", X), X * 2)


def test_a_model_comes_as_a_state(inline: soma.Worker, model_class: Any) -> None:
    inline.load({"it": model_class()})
    np.testing.assert_array_equal(inline.forward("it", X, {"model": DOUBLE}), X * 2)
    with pytest.raises(soma.RemoteError, match=r"has no model: configure path or model, or send"):
        inline.forward("it", X)


def test_several_inputs_and_outputs_are_dicts_by_name(
    inline: soma.Worker, model_class: Any
) -> None:
    inline.load({"pair": model_class(model=PAIR), "gap": model_class(model=PAIR, outputs=["gap"])})
    a, b = np.array([[3, 4]]), np.array([[1, 1]])
    found = inline.forward("pair", {"a": a, "b": b})
    assert {name: array.tolist() for name, array in found.items()} == {
        "sum": [[4, 5]],
        "gap": [[2, 3]],
    }
    assert inline.forward("gap", {"a": a.tolist(), "b": b}).tolist() == [[2, 3]]


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (X, "2 inputs: send a dict of a, b; got a ndarray"),
        ({"a": X}, "b is missing; the model's inputs are a, b"),
        ({"a": X, "b": X, "c": X}, "there is no c; the model's inputs are a, b"),
        ({"a": X, "b": X}, r"the input a takes tensor\(int32\), and float32 would change"),
        ({"a": np.array([[1 << 40, 0]]), "b": X}, "and int64 would change there"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(
    inline: soma.Worker, model_class: Any, x: Any, said: str
) -> None:
    inline.load({"pair": model_class(model=PAIR)})
    with pytest.raises(soma.RemoteError, match=said):
        inline.forward("pair", x)


@pytest.mark.parametrize("x", [X.astype("f8"), X.astype(int), X.tolist()])
def test_numbers_of_another_type_are_converted(
    inline: soma.Worker, model_class: Any, x: Any
) -> None:
    inline.load({"it": model_class(model=DOUBLE)})
    np.testing.assert_array_equal(inline.forward("it", x), X * 2)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": b"no model"}, "protobuf|Protobuf|parse"),
        ({"path": "/nowhere.onnx"}, "nowhere.onnx"),
        ({"model": DOUBLE, "outputs": ["z"]}, "the model has no z; it has y"),
        ({"model": DOUBLE, "providers": ["TPU"]}, "providers: TPU is not in this worker; it has"),
    ],
)
def test_what_cannot_be_opened_is_not_loaded(
    inline: soma.Worker, model_class: Any, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(soma.RemoteError, match=said):
        inline.load({"it": model_class(**fields)})


def test_the_operator_of_a_worker_lets_configurations_name_no_files(
    inline: soma.Worker, model_class: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "double.onnx"
    path.write_bytes(DOUBLE)
    monkeypatch.setenv("SOMA_FILTER_FILES", "never")
    with pytest.raises(soma.RemoteError, match="SOMA_FILTER_FILES=never"):
        inline.load({"it": model_class(path=str(path))})
    inline.load({"it": model_class(model=DOUBLE)})
    np.testing.assert_array_equal(inline.forward("it", X), X * 2)


def _external(location: str) -> Any:
    """A tensor of four bytes that are in a file."""
    tensor = Types(name="w", data_type=Types.UINT8, data_location=Types.EXTERNAL)
    tensor.dims.extend([4])
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _as_initializer(location: str) -> bytes:
    nodes = [helper.make_node("Identity", ["w"], ["y"])]
    return _reading(nodes, [_external(location)])


def _as_constant(location: str) -> bytes:
    constant = helper.make_node("Constant", [], ["w"])
    attribute = constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(_external(location))
    return _reading([constant, helper.make_node("Identity", ["w"], ["y"])], [])


def _reading(nodes: list[Any], initializers: list[Any]) -> bytes:
    found = [helper.make_tensor_value_info("y", Types.UINT8, [4])]
    graph = helper.make_graph(nodes, "graph", [], found, initializer=initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("make", [_as_initializer, _as_constant])
@pytest.mark.parametrize("place", ["absolute", "beside", "above"])
def test_a_model_in_bytes_reads_no_file(
    inline: soma.Worker,
    model_class: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Any,
    place: str,
) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"secret")
    monkeypatch.chdir(tmp_path)
    location = {
        "absolute": str(path),
        "beside": "secret",
        "above": f"../{os.path.relpath(path, '/dev')}",
    }[place]
    with pytest.raises(soma.RemoteError, match=r"[Ee]xternal data path"):
        inline.load({"it": model_class(model=make(location))})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"path": "a", "model": b"b"}, "path and model are both given"),
        ({"model": "*"}, "a model in JSON is base64"),
        ({"threads": 0}, "threads"),
    ],
)
def test_a_wrong_configuration_is_refused(
    model_class: Any, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        model_class(**fields)


def test_the_session_is_opened_once_and_stays_in_the_worker(
    inline: soma.Worker, model_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    session = onnxruntime.InferenceSession

    def counted(*args: Any, **options: Any) -> Any:
        opened.append(args)
        return session(*args, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", counted)
    inline.load({"it": model_class(model=DOUBLE)})
    for _ in range(3):
        inline.forward("it", X)
    inline.set_state("it", inline.get_state("it"))
    inline.forward("it", X)
    assert len(opened) == 1
