"""Training in a filter is training with torch by hand, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from soma_filters_torch.filters import MLP, TorchModule
from torch import nn


def layers(*, dropout: float = 0.0) -> nn.Module:
    if dropout:
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2))
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def train_by_hand(module, x, y, *, epochs, batch_size, loss=nn.functional.mse_loss, shuffle=True):
    """The oracle: the training loop that every tutorial shows."""
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    x, y = torch.tensor(x), torch.tensor(y)
    for _ in range(epochs):
        order = torch.randperm(len(x)) if shuffle else torch.arange(len(x))
        for rows in order.split(batch_size):
            optimizer.zero_grad()
            loss(module(x[rows]), y[rows]).backward()
            optimizer.step()
    return module.eval()


def assert_same_parameters(state, module):
    assert list(state) == list(module.state_dict())
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(state[name], tensor.numpy(), strict=True)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("shuffle", [True, False])
def test_fit_trains_as_torch_does_by_hand(dropout, shuffle, data):
    torch.manual_seed(3)
    oracle = layers(dropout=dropout)
    train_by_hand(oracle, data.x, data.y, epochs=3, batch_size=16, shuffle=shuffle)
    node = MLP(
        sizes=[4, 8, 2],
        activation="tanh",
        dropout=dropout,
        lr=0.01,
        epochs=3,
        batch_size=16,
        shuffle=shuffle,
        seed=3,
    )
    state = node.fit(data.x, data.y)
    assert_same_parameters(state, oracle)
    with torch.no_grad():
        wanted = oracle(torch.tensor(data.x)).numpy()
        np.testing.assert_array_equal(node.forward(data.x, state), wanted)


def test_classes_are_learned_with_cross_entropy(data):
    torch.manual_seed(0)
    oracle = nn.Linear(4, 2)
    train_by_hand(
        oracle, data.x, data.classes, epochs=2, batch_size=32, loss=nn.functional.cross_entropy
    )
    node = TorchModule(
        module="torch.nn.Linear", args=[4, 2], loss="cross_entropy", lr=0.01, epochs=2, seed=0
    )
    assert_same_parameters(node.fit(data.x, data.classes), oracle)


def test_without_a_seed_the_numbers_of_the_process_are_drawn(data):
    torch.manual_seed(3)
    oracle = train_by_hand(layers(), data.x, data.y, epochs=1, batch_size=32)
    torch.manual_seed(3)
    node = MLP(sizes=[4, 8, 2], activation="tanh", lr=0.01)
    assert_same_parameters(node.fit(data.x, data.y), oracle)


def test_a_seed_leaves_the_random_numbers_of_the_process_alone(data):
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    MLP(sizes=[4, 2], seed=7).fit(data.x, data.y)
    assert torch.equal(torch.rand(3), wanted)


def test_fit_starts_anew(data):
    node = MLP(sizes=[4, 2], seed=7)
    first, second = node.fit(data.x, data.y), node.fit(data.x, data.y)
    np.testing.assert_array_equal(first["0.weight"], second["0.weight"])


def test_training_uses_its_gradients_up(data):
    node = MLP(sizes=[4, 2], seed=0)
    for learn in (node.fit, node.partial_fit):
        learn(data.x, data.y)
        assert all(parameter.grad is None for parameter in node.parameters())


def test_passes_of_partial_fit_are_epochs_of_fit(data):
    whole = MLP(sizes=[4, 8, 2], dropout=0.2, epochs=3, seed=1).fit(data.x, data.y)
    node = MLP(sizes=[4, 8, 2], dropout=0.2, seed=1)
    state = {}
    for _ in range(3):
        state = node.partial_fit(data.x, data.y, state)
    np.testing.assert_array_equal(state["0.weight"], whole["0.weight"])


def test_partial_fit_goes_on_from_a_state_that_was_sent(data, send):
    sent = send(MLP(sizes=[4, 2], seed=1).fit(data.x, data.y))
    node = MLP(sizes=[4, 2], seed=2, shuffle=False, batch_size=50, optimizer="SGD", lr=0.1)
    found = node.partial_fit(data.x, data.y, sent)
    oracle = nn.Linear(4, 2)
    oracle.load_state_dict(
        {"weight": torch.tensor(sent["0.weight"]), "bias": torch.tensor(sent["0.bias"])}
    )
    nn.functional.mse_loss(oracle(torch.tensor(data.x)), torch.tensor(data.y)).backward()
    wanted = oracle.weight - 0.1 * oracle.weight.grad
    np.testing.assert_allclose(found["0.weight"], wanted.detach().numpy(), rtol=1e-6)


def test_a_state_does_not_change_when_training_goes_on(data):
    node = MLP(sizes=[4, 2], seed=1)
    state = node.fit(data.x, data.y)
    before = state["0.weight"].copy()
    assert not np.array_equal(node.partial_fit(data.x, data.y, state)["0.weight"], before)
    np.testing.assert_array_equal(state["0.weight"], before)


def test_a_failed_fit_leaves_what_was_learned(data):
    node = MLP(sizes=[4, 2], seed=1)
    state = node.fit(data.x, data.y)
    with pytest.raises(ValueError, match="output has shape"):
        node.fit(data.x, data.classes)
    np.testing.assert_array_equal(node.state_dict()["0.weight"].numpy(), state["0.weight"])


def test_training_works_where_autograd_is_off(data):
    with torch.no_grad():
        state = MLP(sizes=[4, 2], seed=1).fit(data.x, data.y)
    wanted = MLP(sizes=[4, 2], seed=1).fit(data.x, data.y)
    np.testing.assert_array_equal(state["0.weight"], wanted["0.weight"])


def test_buffers_are_part_of_the_state(data, send):
    node = TorchModule(module="torch.nn.BatchNorm1d", args=[4], seed=0)
    state = node.fit(data.x, data.x)
    assert state["num_batches_tracked"] == 2
    with torch.no_grad():
        wanted = node.forward(data.x, state)
        other = TorchModule(module="torch.nn.BatchNorm1d", args=[4])
        np.testing.assert_array_equal(other.forward(data.x, send(state)), wanted)


def test_numbers_that_numpy_lacks_stay_tensors(send):
    node = TorchModule(module="torch.nn.Linear", args=[2, 1], kwargs={"dtype": torch.bfloat16})
    state = send(node.partial_fit([[1.0, 2.0]] * 4, [[1.0]] * 4, {}))
    assert state["weight"].dtype is torch.bfloat16
    with torch.no_grad():
        other = TorchModule(module="torch.nn.Linear", args=[2, 1], kwargs={"dtype": torch.bfloat16})
        assert other.forward([[1.0, 2.0]], state) == node.forward([[1.0, 2.0]], {})


def test_a_network_that_returns_more_than_its_output_learns_from_the_output():
    node = TorchModule(
        module="torch.nn.GRU", args=[3, 2], kwargs={"batch_first": True}, seed=0, lr=0.1, epochs=30
    )
    x, y = np.ones((8, 5, 3), np.float32), np.full((8, 5, 2), 0.5, np.float32)
    with torch.no_grad():
        before, _ = node.forward(x, {})
        after, _ = node.forward(x, node.fit(x, y))
    assert np.abs(after - y).mean() < 0.5 * np.abs(before - y).mean()
