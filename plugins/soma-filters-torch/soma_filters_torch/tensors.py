"""Tensors: from what the host sent to what a network takes, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

__all__ = ["from_output", "is_floating", "to_input", "to_target"]

_NUMERIC = "biufc"


def is_floating(tensor: torch.Tensor) -> bool:
    """Whether its elements are real or complex numbers in floating point."""
    return tensor.is_floating_point() or tensor.is_complex()


def to_input(x: Any, like: torch.Tensor | None, *, integers: bool = True) -> torch.Tensor:
    """What a network is given for a value.

    Floating arrays and tensors, and lists of any numbers, take the type of the network's first
    floating parameter; everything moves to its device.

    Args:
        x: A tensor, an array, nested lists, or what numpy makes an array of.
        like: That parameter; without one they take torch's default type, on the CPU.
        integers: Whether integer arrays and tensors stay integers, as an embedding needs them.

    Raises:
        ValueError: It is nothing of these.
    """
    keep = integers and not isinstance(x, list | tuple) and not _holds_floats(x)
    tensor = _tensor_of(x, "x")
    device = torch.device("cpu") if like is None else like.device
    if keep:
        return tensor.to(device)
    return tensor.to(device, torch.get_default_dtype() if like is None else like.dtype)


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


def _holds_floats(x: Any) -> bool:
    if isinstance(x, torch.Tensor):
        return is_floating(x)
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
