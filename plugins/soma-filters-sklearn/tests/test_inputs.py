"""Data may come as lists, arrays, torch tensors or data frames."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import sklearn.preprocessing
from soma_filters_sklearn import estimators


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
