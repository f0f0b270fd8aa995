"""Tensors: from what the host sent to what a network takes, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

_NUMERIC = "biufc"


def to_input(x: Any, module: nn.Module, *, integers: bool = True) -> Any:
    """What a network is given for a value.

    Floating arrays and tensors, and lists of any numbers, take the type of the network's first
    floating parameter; everything moves to its device.

    Args:
        x: A tensor, an array, nested lists, or what numpy makes an array of; or a dict of these.
        module: The network.
        integers: Whether integer arrays and tensors stay integers, as an embedding needs them.

    Returns:
        A tensor, or a dict of tensors.

    Raises:
        ValueError: It is nothing of these.
    """
    dtype, device = numeric_type(module)
    if isinstance(x, dict):
        return {key: to_input(item, module, integers=integers) for key, item in x.items()}
    keep = integers and not isinstance(x, list | tuple) and not _is_floating(x)
    tensor = _tensor_of(x, "x")
    if keep:
        return tensor.to(device)
    same = tensor.dtype is dtype and tensor.device == device  # as in each step of training
    return tensor if same else tensor.to(device=device, dtype=dtype)


def to_target(y: Any, device: torch.device) -> torch.Tensor:
    """A target as a tensor of its own type.

    Raises:
        ValueError: There is none, or it is not numbers.
    """
    if y is None:
        raise ValueError("there is no target: pass y beside the data")
    return _tensor_of(y, "y").to(device)


def from_output(out: Any, x: Any, *, to_cpu: bool = True) -> Any:
    """An output in the kind that the input came in: tensors, lists or numpy arrays."""
    kind = next(iter(x.values()), None) if isinstance(x, dict) else x
    return map_tensors(out, lambda item: _like(item.detach(), kind, to_cpu))


def map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """A value with each tensor changed that is in its tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, tuple | list):
        items = [map_tensors(item, change) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {key: map_tensors(item, change) for key, item in value.items()}
    return value


def _like(out: torch.Tensor, x: Any, to_cpu: bool) -> Any:
    if isinstance(x, torch.Tensor):
        return out.cpu() if to_cpu else out
    if isinstance(x, list):
        return out.tolist()
    return (out.float() if out.dtype is torch.bfloat16 else out).cpu().numpy()


def numeric_type(module: nn.Module) -> tuple[torch.dtype, torch.device]:
    """The type and device of the first floating parameter of a network."""
    first = _first_numeric(module)
    if first is None:
        return torch.get_default_dtype(), torch.device("cpu")
    return first.dtype, first.device


def _first_numeric(module: nn.Module) -> nn.Parameter | None:
    """The first of ``module.parameters()`` that is, without listing them all at every step."""
    for parameter in module._parameters.values():
        if parameter is not None and (parameter.is_floating_point() or parameter.is_complex()):
            return parameter
    for part in module._modules.values():
        found = None if part is None else _first_numeric(part)
        if found is not None:
            return found
    return None


def named_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """What ``module.named_parameters()`` has, at half its cost: each step asks for it."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    _add_parameters(found, module, "")
    return list(found.values())


def _add_parameters(
    found: dict[int, tuple[str, nn.Parameter]], module: nn.Module, prefix: str
) -> None:
    for key, parameter in module._parameters.items():
        if parameter is not None:
            found.setdefault(id(parameter), (prefix + key, parameter))
    for key, part in module._modules.items():
        if part is not None:
            _add_parameters(found, part, f"{prefix}{key}.")


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
        kind = type(value).__name__
        raise ValueError(f"{name}, a {kind}, is no regular grid of numbers: {error}") from error
    if array.dtype.kind not in _NUMERIC:
        kind = type(value).__name__
        raise ValueError(
            f"{name} is a {kind} that holds {array.dtype}; expected numbers, as a tensor, an array "
            "or nested lists"
        )
    return array
