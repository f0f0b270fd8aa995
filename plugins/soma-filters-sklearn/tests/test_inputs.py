"""Data may come as lists, arrays, torch tensors or data frames."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import sklearn.cluster
import sklearn.preprocessing
from pydantic import ValidationError
from soma_filters_sklearn import estimators

import soma_core as soma


@pytest.fixture
def scaled(data):
    return sklearn.preprocessing.StandardScaler().fit_transform(data.x)


def test_nested_lists_are_samples(data, scaled):
    node = estimators.StandardScaler()
    rows = data.x.tolist()
    np.testing.assert_array_equal(node.forward(rows, node.fit(rows)), scaled)


def test_a_torch_tensor_that_needs_gradients_is_an_array(data, scaled):
    torch = pytest.importorskip("torch")
    node = estimators.StandardScaler()
    tensor = torch.tensor(data.x, requires_grad=True)
    np.testing.assert_array_equal(node.forward(tensor, node.fit(tensor)), scaled)


def test_a_half_precision_tensor_is_read_as_float32():
    torch = pytest.importorskip("torch")
    node = estimators.MinMaxScaler()
    tensor = torch.tensor([[0.0], [2.0], [4.0]], dtype=torch.bfloat16)
    found = node.forward(tensor, node.fit(tensor))
    assert found.dtype == np.float32
    assert found.ravel().tolist() == [0.0, 0.5, 1.0]


def test_the_columns_of_a_data_frame_keep_their_names(data, send):
    frame = pandas.DataFrame(data.x, columns=list("abcde"))
    node = estimators.StandardScaler()
    state = send(node.fit(frame), pickle=False)
    assert state["feature_names_in_"]["items"] == list("abcde")
    with pytest.raises(ValueError, match="feature names"):
        node.forward(frame.rename(columns={"a": "z"}), state)


def test_columns_by_name_are_a_table_and_keep_their_types():
    columns = {
        "count": np.array([1, 2, 3], dtype="int8"),
        "size": np.array([0.5, 1.5, 2.5], dtype="float32"),
        "colour": ["red", "green", "red"],
    }
    node = estimators.ColumnTransformer(
        transformers=[["sizes", "sklearn.StandardScaler", ["size"]]],
        remainder="passthrough",
        verbose_feature_names_out=False,
        transform_output="columns",
    )
    with soma.connect("inline", pickle="never", filters={"node": node_of(node)}) as worker:
        state = worker.fit("node", columns)
        found = worker.forward("node", columns)
    assert state["feature_names_in_"]["items"] == ["count", "size", "colour"]
    assert list(found) == ["size", "count", "colour"]
    assert found["size"].dtype == np.float32
    assert found["count"].dtype == np.int8
    assert list(found["colour"]) == ["red", "green", "red"]


def node_of(node):
    return f"sklearn.{type(node).__name__}", node.model_dump(exclude_unset=True)


def test_names_go_from_node_to_node(data):
    columns = dict(zip("abcde", data.x.T.copy(), strict=True))
    names = {"scale": ("sklearn.StandardScaler", {"transform_output": "columns"})}
    with soma.connect("inline", pickle="never", filters=names) as worker:
        worker.load({"fit": ("sklearn.Ridge", {})})
        worker.composite_fit(["scale", "fit"], columns, data.numbers)
        with pytest.raises(soma.RemoteError, match="feature names"):
            worker.forward("fit", {name.upper(): column for name, column in columns.items()})


def test_a_data_frame_comes_out_where_one_is_asked_for(data):
    frame = pandas.DataFrame(data.x, columns=list("abcde"))
    node = estimators.StandardScaler(transform_output="pandas")
    assert list(node.forward(frame, node.fit(frame)).columns) == list("abcde")


def test_an_estimator_that_names_no_outputs_says_so():
    with pytest.raises(ValidationError, match="SVC does not name its outputs"):
        estimators.SVC(transform_output="columns")


@pytest.mark.parametrize("columns", [{}, {"a": [1.0], "b": [1.0, 2.0]}, {"a": [[1.0]]}])
def test_columns_that_are_none_are_refused_with_their_shapes(columns):
    with pytest.raises(ValueError, match="are columns by name, all of one axis and equally long"):
        estimators.StandardScaler().fit(columns)


def test_samples_that_are_dicts_stay_dicts():
    node = estimators.DictVectorizer(sparse=False)
    assert node.forward({"red": 1.0}, node.fit([{"red": 1.0, "blue": 2.0}])).tolist() == [
        [0.0, 1.0]
    ]


def test_an_estimator_that_answers_for_its_own_samples_alone_learns_as_it_answers(data):
    node = estimators.DBSCAN(eps=0.5)
    assert node.meta().kind is soma.FilterKind.STATELESS
    state, half = node.fit(data.x), data.x[::2]
    oracle = sklearn.cluster.DBSCAN(eps=0.5)
    np.testing.assert_array_equal(state["labels_"], oracle.fit_predict(data.x))
    for known in ({}, state):
        np.testing.assert_array_equal(node.forward(half, known), oracle.fit_predict(half))
    np.testing.assert_array_equal(node.estimator_with(state).labels_, state["labels_"])
