"""forward takes tensors, arrays and lists, and states from anywhere."""

from __future__ import annotations

import copy

import cloudpickle
import numpy as np
import pytest
import torch
from soma_filters_torch.filters import MLP, TorchModule


@pytest.fixture(autouse=True)
def _no_gradients():
    """As the engine calls forward, everywhere but in the joint step."""
    with torch.no_grad():
        yield


def linear(**config):
    return TorchModule(module="torch.nn.Linear", args=[4, 2], seed=0, **config)


def plainly(node, x):
    """What the network itself answers: the oracle."""
    weight, bias = node.state_dict().values()
    return torch.nn.functional.linear(torch.as_tensor(x), weight, bias).numpy()


def test_the_output_comes_in_the_kind_of_the_input(data):
    node = linear()
    wanted = plainly(node, data.x)
    found = node.forward(data.x, {})
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, wanted)
    tensor = node.forward(torch.tensor(data.x), {})
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), wanted)
    assert node.forward(data.x.tolist(), {}) == wanted.tolist()


@pytest.mark.parametrize("widen", [np.float64, lambda x: torch.tensor(x).double()])
def test_floating_data_takes_the_type_of_the_parameters(widen, data):
    node = linear()
    found = np.asarray(node.forward(widen(data.x), {}))
    np.testing.assert_array_equal(found, plainly(node, data.x), strict=True)


@pytest.mark.parametrize("x", [[[1, 2, 3, 4]], np.array([[1, 2, 3, 4]])])
def test_whole_numbers_are_numbers_for_layers(x):
    node = MLP(sizes=[4, 2])
    wanted = node.forward(np.array([[1.0, 2.0, 3.0, 4.0]]), {})
    np.testing.assert_array_equal(node.forward(x, {}), wanted)


def test_integer_arrays_are_indexes_for_an_embedding():
    node = TorchModule(module="torch.nn.Embedding", args=[5, 3])
    found = node.forward(np.array([4, 0]), {})
    np.testing.assert_array_equal(found, node.state_dict()["weight"].numpy()[[4, 0]])


def test_a_read_only_array_is_accepted(data):
    x = data.x.copy()
    x.flags.writeable = False
    np.testing.assert_array_equal(linear().forward(x, {}), linear().forward(data.x, {}))


def test_softmax_and_argmax_are_over_the_classes(data):
    raw = linear().forward(torch.tensor(data.x), {})
    assert torch.equal(linear(output="softmax").forward(torch.tensor(data.x), {}), raw.softmax(1))
    assert torch.equal(linear(output="argmax").forward(torch.tensor(data.x), {}), raw.argmax(1))


def test_dropout_is_off_outside_training(data):
    node = MLP(sizes=[4, 8, 2], dropout=0.9)
    np.testing.assert_array_equal(node.forward(data.x, {}), node.forward(data.x, {}))


def test_a_state_travels_without_pickle_to_another_filter(data, send):
    node = linear(epochs=2)
    state = node.fit(data.x, data.y)
    other = TorchModule(module="torch.nn.Linear", args=[4, 2], seed=99)
    np.testing.assert_array_equal(other.forward(data.x, send(state)), node.forward(data.x, state))


def test_a_state_serves_its_call_and_leaves_the_network_alone(data):
    node = linear()
    own = node.forward(data.x, {})
    other = TorchModule(module="torch.nn.Linear", args=[4, 2], seed=99).fit(data.x, data.y)
    assert not np.array_equal(node.forward(data.x, other), own)
    np.testing.assert_array_equal(node.forward(data.x, {}), own)


def test_a_state_is_loaded_once_for_many_calls(data, monkeypatch):
    node = linear()
    state = TorchModule(module="torch.nn.Linear", args=[4, 2], seed=99).fit(data.x, data.y)
    wanted = node.forward(data.x, state)
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", None)
    np.testing.assert_array_equal(node.forward(data.x, state), wanted)


def test_the_networks_own_state_is_not_loaded_at_all(data, monkeypatch):
    node = linear()
    state = node.fit(data.x, data.y)
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", None)
    np.testing.assert_array_equal(node.forward(data.x, state), plainly(node, data.x))


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        ([1.0], "a dict of arrays, as fit returned it; got list"),
        ({"weight": np.zeros((2, 4))}, r"missing \['bias'\], unknown \[\]"),
        (
            {"weight": np.zeros((3, 4)), "bias": np.zeros(2)},
            r"weight has shape \[3, 4\], the network needs \[2, 4\]",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state, complaint, data):
    node = linear()
    before = node.forward(data.x, {})
    with pytest.raises(ValueError, match=complaint):
        node.forward(data.x, state)
    np.testing.assert_array_equal(node.forward(data.x, {}), before)


def test_parameters_survive_cloudpickle_with_the_optimizers_momentum(data):
    node = MLP(sizes=[4, 8, 2], seed=1)
    state = node.fit(data.x, data.y)
    pickled = cloudpickle.loads(cloudpickle.dumps(node))
    assert pickled.config_hash() == node.config_hash()
    np.testing.assert_array_equal(pickled.forward(data.x, {}), node.forward(data.x, state))
    again, wanted = pickled.partial_fit(data.x, data.y, {}), node.partial_fit(data.x, data.y, {})
    np.testing.assert_array_equal(again["0.weight"], wanted["0.weight"])


def test_a_pickle_does_not_hold_the_states_of_others(data):
    node = linear()
    node.fit(data.x, data.y)
    size = len(cloudpickle.dumps(node))
    other = TorchModule(module="torch.nn.Linear", args=[4, 2], seed=99).fit(data.x, data.y)
    node.forward(data.x, other)
    assert len(cloudpickle.dumps(node)) == size


def test_a_changed_copy_has_a_network_of_its_own(data):
    node = MLP(sizes=[4, 2])
    node.fit(data.x, data.y)
    assert node.model_copy(update={"sizes": [4, 3]}).forward(data.x, {}).shape == (50, 3)
    deep = copy.deepcopy(node)
    deep.fit(data.x, data.y)
    assert not np.array_equal(deep.forward(data.x, {}), node.forward(data.x, {}))
