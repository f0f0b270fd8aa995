"""Rowwise: whether each row of a network's output comes from the same row of its input alone.

It does where the network is a chain of layers of torch that are known to, in the mode of
evaluation: there a BatchNorm uses the statistics that it learned, and a Dropout does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from soma_filters_torch.building import build_module, module_class

_NAMES = """
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d
    AdaptiveMaxPool3d AvgPool1d AvgPool2d AvgPool3d BatchNorm1d BatchNorm2d BatchNorm3d CELU Conv1d
    Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d Dropout Dropout1d Dropout2d
    Dropout3d ELU Embedding Flatten GELU GroupNorm Hardsigmoid Hardswish Hardtanh Identity LayerNorm
    LeakyReLU Linear LogSigmoid LogSoftmax MaxPool1d MaxPool2d MaxPool3d Mish PReLU ReLU ReLU6 SELU
    Sequential SiLU Sigmoid Softmax Softplus Softsign Tanh Tanhshrink
"""
_LAYERS = frozenset(getattr(nn, name) for name in _NAMES.split())
_BY_STATISTICS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def is_rowwise(module: nn.Module) -> bool:
    """Whether a network is a chain of such layers."""
    return all(map(_layer_is_rowwise, module.modules()))


def _layer_is_rowwise(layer: nn.Module) -> bool:
    if type(layer) not in _LAYERS:
        return False
    if isinstance(layer, nn.Flatten):
        return layer.start_dim > 0
    if isinstance(layer, nn.Softmax | nn.LogSoftmax):
        return layer.dim is not None and layer.dim > 0
    return not isinstance(layer, _BY_STATISTICS) or layer.track_running_stats


def describes_rowwise(path: str, args: list[Any], kwargs: dict[str, Any]) -> bool:
    """The same of a network that is described, as for :func:`build_module`."""
    if not all(module_class(found) in _LAYERS for found in (path, *_paths([args, kwargs]))):
        return False
    with torch.device("meta"):  # nothing is allocated
        return is_rowwise(build_module(path, args, kwargs))


def _paths(described: Any) -> Iterator[str]:
    """The paths of the modules in some arguments."""
    if isinstance(described, dict):
        if isinstance(described.get("module"), str):
            yield described["module"]
        described = list(described.values())
    if isinstance(described, list):
        for item in described:
            yield from _paths(item)
