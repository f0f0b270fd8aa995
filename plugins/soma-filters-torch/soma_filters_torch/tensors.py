"""Tensors: from what the host sent to what a network takes, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["from_output", "to_input", "to_target"]

_NUMERIC = "biufc"


def to_input(x: Any, module: nn.Module, *, integers: bool = True) -> torch.Tensor:
    """What a network is given for a value.

    Floating arrays and tensors, and lists of any numbers, take the type of the network's first
    floating parameter; everything moves to its device.

    Args:
        x: A tensor, an array, nested lists, or what numpy makes an array of.
        module: The network.
        integers: Whether integer arrays and tensors stay integers, as an embedding needs them.

    Raises:
        ValueError: It is nothing of these.
    """
    dtype, device = _numeric_type(module)
    keep = integers and not isinstance(x, list | tuple) and not _is_floating(x)
    tensor = _tensor_of(x, "x")
    return tensor.to(device) if keep else tensor.to(device=device, dtype=dtype)


def to_target(y: Any, device: torch.device) -> torch.Tensor:
    """A target as a tensor of its own type.

    Raises:
        ValueError: There is none, or it is not numbers.
    """
    if y is None:
        raise ValueError("there is no target: pass y beside the data")
    return _tensor_of(y, "y").to(device)


def from_output(out: Any, x: Any) -> Any:
    """An output in the kind that the input came in: tensor, lists or numpy arrays."""
    if isinstance(out, torch.Tensor):
        return _like(out.detach(), x)
    if isinstance(out, tuple | list):
        items = [from_output(item, x) for item in out]
        return tuple(items) if isinstance(out, tuple) else items
    if isinstance(out, dict):
        return {key: from_output(item, x) for key, item in out.items()}
    return out


def _like(out: torch.Tensor, x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return out
    if isinstance(x, list):
        return out.tolist()
    return (out.float() if out.dtype is torch.bfloat16 else out).cpu().numpy()


def _numeric_type(module: nn.Module) -> tuple[torch.dtype, torch.device]:
    for parameter in module.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            return parameter.dtype, parameter.device
    return torch.get_default_dtype(), torch.device("cpu")


def _is_floating(x: Any) -> bool:
    if isinstance(x, torch.Tensor):
        return x.is_floating_point() or x.is_complex()
    return np.asarray(x).dtype.kind in "fc"


def _tensor_of(value: Any, name: str) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    array = _array_of(value, name)
    return torch.as_tensor(array if array.flags.writeable else array.copy())


def _array_of(value: Any, name: str) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is not a regular grid of numbers: {error}") from error
    if array.dtype.kind not in _NUMERIC:
        kind = type(value).__name__
        raise ValueError(
            f"{name} is a {kind} that holds {array.dtype}; expected numbers, as a tensor, an array "
            "or nested lists"
        )
    return array
