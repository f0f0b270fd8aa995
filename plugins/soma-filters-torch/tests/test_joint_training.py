"""What the engine's joint step needs: torch's own names, gradients, strict losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from soma_filters_torch.filters import MLP, TorchModule
from torch import nn

from soma_core import FilterKind


def test_a_step_through_two_filters_is_a_step_through_both_networks(data):
    first = MLP(sizes=[4, 3], seed=1, optimizer="SGD", lr=0.1)
    second = MLP(sizes=[3, 2], seed=2, optimizer="SGD", lr=0.1)
    oracle = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    oracle[0].load_state_dict({k[2:]: v for k, v in first.state_dict().items()})
    oracle[1].load_state_dict({k[2:]: v for k, v in second.state_dict().items()})
    stepper = torch.optim.SGD(oracle.parameters(), lr=0.1)
    x, y = torch.tensor(data.x), torch.tensor(data.y)
    for _ in range(3):
        second.compute_loss(second.forward(first.forward(x, {}), {}), data.y).backward()
        nn.functional.mse_loss(oracle(x), y).backward()
        for owner in (first.optimizer, second.optimizer, stepper):
            owner.step()
            owner.zero_grad()
    assert torch.equal(first.state_dict()["0.weight"], oracle[0].weight)
    assert torch.equal(second.state_dict()["0.weight"], oracle[1].weight)


def test_a_training_forward_is_raw_and_with_dropout(data):
    node = MLP(sizes=[4, 64, 2], dropout=0.5, output="argmax")
    x = torch.tensor(data.x)
    out = node.forward(x, {})
    assert out.shape == (50, 2)
    assert out.requires_grad
    assert not torch.equal(out, node.forward(x, {}))


def test_joint_training_starts_from_a_state_that_was_given(data):
    state = MLP(sizes=[4, 2], seed=5).fit(data.x, data.y)
    node = MLP(sizes=[4, 2], seed=6)
    x = torch.tensor(data.x)
    for _ in range(2):
        node.compute_loss(node.forward(x, state), data.y).backward()
        node.optimizer.step()
    moved = np.abs(node.state_dict()["0.weight"].numpy() - state["0.weight"]).max()
    assert 0.0015 < moved < 0.0025


def test_the_names_are_those_of_torch():
    node = MLP(sizes=[4, 2])
    names = [name for name, _ in node.named_parameters()]
    assert names == ["0.weight", "0.bias"] == list(node.state_dict())
    assert len(list(node.parameters())) == 2
    assert node.load_state_dict(MLP(sizes=[4, 2]).state_dict()).missing_keys == []


def test_a_network_without_parameters_has_no_optimizer(data):
    node = TorchModule(module="torch.nn.Flatten")
    assert node.optimizer is None
    with pytest.raises(ValueError, match="no parameters to train"):
        node.fit(data.x, data.y)


def test_the_meta_says_what_the_engine_must_know():
    meta = MLP(sizes=[4, 2]).meta()
    assert meta.name == "torch.MLP"
    assert meta.kind is FilterKind.TRAINABLE
    assert meta.differentiable
    assert not meta.cacheable
    assert not meta.deterministic
    assert MLP(sizes=[4, 2], seed=0).meta().deterministic


@pytest.mark.parametrize("loss", ["mse", "l1", "huber", "torch.nn.functional.smooth_l1_loss"])
def test_targets_are_never_broadcast(loss):
    node = MLP(sizes=[4, 1], loss=loss)
    with pytest.raises(ValueError, match=r"output has shape \[8, 1\] and the target \[8\]"):
        node.compute_loss(torch.zeros(8, 1), torch.zeros(8))


@pytest.mark.parametrize("y", [[0, 1], [0.0, 1.0], np.array([0, 1], np.int8), torch.tensor([0, 1])])
@pytest.mark.parametrize("loss", ["cross_entropy", "nll", "torch.nn.functional.cross_entropy"])
def test_whole_numbers_are_classes(loss, y):
    out = torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.4, 0.1]])
    function = nn.functional.nll_loss if loss == "nll" else nn.functional.cross_entropy
    found = MLP(sizes=[4, 3], loss=loss).compute_loss(out, y)
    assert torch.equal(found, function(out, torch.tensor([0, 1])))


def test_cross_entropy_takes_probabilities_too():
    out, y = torch.tensor([[0.1, 0.2]]), np.array([[0.3, 0.7]])
    found = MLP(sizes=[4, 2], loss="cross_entropy").compute_loss(out, y)
    assert torch.equal(found, nn.functional.cross_entropy(out, torch.tensor([[0.3, 0.7]])))


def test_classes_with_fractions_are_refused():
    with pytest.raises(ValueError, match="needs whole numbers as classes"):
        MLP(sizes=[4, 2], loss="cross_entropy").compute_loss(torch.zeros(1, 2), [0.5])


def test_classes_in_a_column_are_refused_with_the_shape_that_is_needed():
    node = MLP(sizes=[4, 2], loss="nll")
    with pytest.raises(ValueError, match=r"target \[8, 1\].*shape \[8\] \(the classes\)"):
        node.compute_loss(torch.zeros(8, 2), torch.zeros(8, 1))


def test_integer_targets_are_numbers_for_a_loss_of_numbers():
    found = MLP(sizes=[4, 1]).compute_loss(torch.zeros(2, 1), torch.tensor([[1], [3]]))
    assert float(found) == 5.0
