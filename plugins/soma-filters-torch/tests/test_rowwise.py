"""A network whose rows are independent says so, and no other."""

from __future__ import annotations

import pytest
import torch
from soma_filters_torch.filters import MLP, TorchModule
from torch import nn


class Odd(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


LAYERS = [
    {"module": "torch.nn.Linear", "args": [4, 8]},
    {"module": "torch.nn.BatchNorm1d", "args": [8]},
    {"module": "torch.nn.ReLU"},
]


@pytest.mark.parametrize(
    ("node", "rowwise"),
    [
        (MLP(sizes=[4, 8, 2], dropout=0.5), True),
        (TorchModule(module="torch.nn.Linear", args=[4, 2]), True),
        (TorchModule(module="torch.nn.Sequential", args=LAYERS), True),
        (TorchModule(module=nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten())), True),
        (TorchModule(module=nn.Sequential(nn.Linear(4, 2), nn.Softmax(dim=-1))), False),
        (TorchModule(module=nn.Softmax(dim=0)), False),
        (TorchModule(module=nn.Flatten(0)), False),
        (TorchModule(module=nn.BatchNorm1d(4, track_running_stats=False)), False),
        (TorchModule(module="torch.nn.LSTM", args=[4, 2]), False),
        (TorchModule(module=nn.Sequential(nn.Linear(4, 4), Odd())), False),
    ],
)
def test_a_chain_of_layers_that_keep_rows_apart_is_rowwise(node, rowwise):
    assert node.meta().rowwise is rowwise


@pytest.mark.parametrize(
    "node",
    [
        MLP(sizes=[4, 8, 2], dropout=0.5, seed=0),
        TorchModule(module="torch.nn.Sequential", args=LAYERS, seed=0),
    ],
)
def test_rows_together_are_answered_as_rows_alone(node):
    x = torch.randn(6, 4)
    with torch.no_grad():
        together = node.forward(x, {})
        alone = torch.cat([node.forward(row[None], {}) for row in x])
    assert torch.allclose(together, alone, atol=1e-6)
