"""Moments: an optimizer takes a state from elsewhere only if each tensor in it has its place.

Torch's fused kernels trust the shapes of moments, and would read and write beside them. Whether
they are used is said in the state itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from soma_core.engine.training import tensors

if TYPE_CHECKING:
    import torch


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Give an optimizer what the ``state_dict()`` of one of its kind returned.

    Raises:
        ValueError: It is not the state of such an optimizer; nothing has changed.
        Exception: What ``load_state_dict`` raises.
    """
    groups, moments = _parts(state)
    if len(groups) != len(optimizer.param_groups):
        raise ValueError(
            f"the optimizer has {len(optimizer.param_groups)} groups of parameters; the state has "
            f"{len(groups)}"
        )
    numbered: dict[Any, tuple[torch.Tensor, bool]] = {}
    for own, came in zip(optimizer.param_groups, groups, strict=True):
        _check_group(own, came)
        fused = bool(own.get("fused"))
        pairs = zip(came["params"], own["params"], strict=True)
        numbered |= {number: (parameter, fused) for number, parameter in pairs}
    for number, kept in moments.items():
        if number not in numbered or not isinstance(kept, dict):
            raise ValueError(f"the state has moments of a parameter {number!r} that is not there")
        parameter, fused = numbered[number]
        for name, value in kept.items():
            _check_moment(name, value, parameter, fused=fused)
    optimizer.load_state_dict(state)


def _parts(state: Any) -> tuple[list[Any], dict[Any, Any]]:
    groups = state.get("param_groups") if isinstance(state, dict) else None
    moments = state.get("state") if isinstance(state, dict) else None
    if not isinstance(groups, list) or not isinstance(moments, dict):
        raise ValueError("the state of an optimizer is a dict of its state and its param_groups")
    return groups, moments


def _check_group(own: Mapping[str, Any], came: Any) -> None:
    if not isinstance(came, dict) or not isinstance(came.get("params"), list):
        raise ValueError("a group of parameters is a dict that lists its params")
    if len(came["params"]) != len(own["params"]):
        raise ValueError(
            f"a group has {len(own['params'])} parameters; in the state it has "
            f"{len(came['params'])}"
        )
    for name in came.keys() & own.keys() - {"params"}:
        if not _is_number(own[name]) and came[name] != own[name]:
            raise ValueError(f"{name} is {own[name]!r}, and {came[name]!r} in the state")
        if _is_number(own[name]) and not _is_number(came[name]):
            raise ValueError(f"{name} is a number, and {came[name]!r} in the state")


def _is_number(value: Any) -> bool:
    """Whether it is what schedulers change: a number, some of them, or a tensor of one."""
    if isinstance(value, list | tuple):
        return all(map(_is_number, value))
    if tensors.is_tensor(value):
        return bool(value.numel() == 1)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_moment(name: Any, value: Any, parameter: torch.Tensor, *, fused: bool) -> None:
    if not tensors.is_tensor(value) or value.shape == parameter.shape:
        return
    if name == "step" and value.numel() == 1:
        return
    if not fused and _spreads_over(value.shape, parameter.shape):
        return
    raise ValueError(
        f"the moment {name!r} has shape {list(value.shape)}; its parameter has "
        f"{list(parameter.shape)}"
    )


def _spreads_over(moment: Any, parameter: Any) -> bool:
    """Whether a moment has one number for several elements of its parameter."""
    if len(moment) == 0:
        return True
    return len(moment) == len(parameter) and all(
        size in (1, length) for size, length in zip(moment, parameter, strict=True)
    )
