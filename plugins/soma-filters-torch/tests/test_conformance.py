"""Filters over networks meet the clauses of soma's own kit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from soma_filters_torch.filters import MLP, TorchModule

from soma_core.testing import FilterConformance

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(24, 4)).astype(np.float32)
Y = RANDOM.normal(size=(24, 2)).astype(np.float32)


@pytest.fixture(autouse=True)
def _no_gradients():
    """As the engine calls forward, everywhere but in the joint step."""
    with torch.no_grad():
        yield


class TestMLP(FilterConformance):
    transport = "inline"

    def build(self):
        return MLP(sizes=[4, 8, 2], seed=0, epochs=2)

    def data(self):
        return X.copy()

    def targets(self):
        return Y.copy()


@pytest.mark.nightly  # its worker imports torch anew
class TestMLPInAProcess(TestMLP):
    transport = "stdio"


class TestModule(TestMLP):
    def build(self):
        return TorchModule(module="torch.nn.Linear", args=[4, 2], seed=0)


@pytest.mark.nightly  # its worker imports torch anew
class TestModuleInAProcess(TestModule):
    transport = "stdio"


class TestObject(TestMLP):
    def build(self):
        torch.manual_seed(5)
        return TorchModule(module=torch.nn.Sequential(torch.nn.Linear(4, 2)), seed=0)
