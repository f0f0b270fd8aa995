"""Adapting: a raw ``nn.Module`` that is handed to soma becomes a filter.

soma imports this in every process that uses plugins, so that it does not import torch.
"""

from __future__ import annotations

import sys
from typing import Any

import soma_core

__all__ = ["SOMA_API_VERSION", "soma_adapt"]

SOMA_API_VERSION = 1


@soma_core.hookimpl
def soma_adapt(obj: Any) -> Any:
    """``torch.Module`` around a module, with its defaults; None for anything else."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(obj, torch.nn.Module):
        return None
    from soma_filters_torch.filters import TorchModule

    return TorchModule(module=obj)
