"""Plugin: wraps a raw ``nn.Module`` that is handed to soma, and prepares for forks.

soma imports this in every process that uses plugins, so that it does not import torch.
"""

from __future__ import annotations

import sys
from typing import Any

import soma_core

SOMA_API_VERSION = 1


@soma_core.hookimpl
def soma_adapt(obj: Any) -> Any:
    """``torch.Module`` around a module, with its defaults; None for anything else."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(obj, torch.nn.Module):
        return None
    from soma_filters_torch.filters import TorchModule

    return TorchModule(module=obj)


@soma_core.hookimpl
def soma_preloaded() -> None:
    """Make a step of training, all but going backward: that may start threads."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    from soma_filters_torch.filters import MLP

    network, row = MLP(sizes=[1, 1]), torch.ones(1, 1)
    network.compute_loss(network.forward(row, {}), row)
    assert network.optimizer is not None
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    network.optimizer.step()
