"""Losses: functions of torch by name, and targets made to fit outputs without broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from soma_filters_torch.spelling import unknown
from soma_filters_torch.tensors import to_target

__all__ = ["compute_loss", "loss_function"]

_FUNCTIONS = "torch.nn.functional."
_NAMED = {
    "bce_with_logits": "binary_cross_entropy_with_logits",
    "cross_entropy": "cross_entropy",
    "huber": "huber_loss",
    "l1": "l1_loss",
    "mse": "mse_loss",
    "nll": "nll_loss",
}
_OF_CLASSES = frozenset({"cross_entropy", "multi_margin_loss", "nll_loss"})
_OF_PROBABILITIES_TOO = "cross_entropy"

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def loss_function(name: str) -> Loss:
    """The function of a loss, by a short name or a path under ``torch.nn.functional``.

    Raises:
        ValueError: There is none; the message names the closest ones.
    """
    found = getattr(functional, _function_name(name), None)
    if name not in _NAMED and not name.startswith(_FUNCTIONS):
        raise ValueError(f"{unknown('loss', name, _NAMED)} A path starts with {_FUNCTIONS}")
    if not callable(found):
        listed = (key for key in dir(functional) if key.endswith(("_loss", "cross_entropy")))
        raise ValueError(unknown("loss", name, (_FUNCTIONS + key for key in listed)))
    loss: Loss = found
    return loss


def compute_loss(name: str, out: Any, y: Any) -> torch.Tensor:
    """The loss of an output.

    Args:
        name: What :func:`loss_function` understands.
        out: The output of the network.
        y: The target: a tensor, an array or lists. Whole numbers are classes where the loss is
            about classes and the output has one axis more; else the shapes must be equal.

    Raises:
        ValueError: The output is not a tensor, or the target does not fit it.
    """
    if not isinstance(out, torch.Tensor):
        raise ValueError(
            f"the network returned a {type(out).__name__}; the loss {name} needs a tensor"
        )
    return loss_function(name)(out, _fitting(name, out, to_target(y, out.device)))


def _function_name(name: str) -> str:
    return _NAMED.get(name, name.removeprefix(_FUNCTIONS))


def _fitting(name: str, out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    function = _function_name(name)
    if function in _OF_CLASSES and y.shape == _shape_of_classes(out):
        return _as_classes(name, y)
    by_element = function not in _OF_CLASSES or function == _OF_PROBABILITIES_TOO
    if by_element and y.shape == out.shape:
        return y.to(out.dtype)
    wanted = [f"{list(out.shape)}"] if by_element else []
    if function in _OF_CLASSES:
        wanted.append(f"{list(_shape_of_classes(out))} (the classes)")
    raise ValueError(
        f"the output has shape {list(out.shape)} and the target {list(y.shape)}; the loss {name} "
        f"needs a target of shape {' or '.join(wanted)}: reshape y, or change what the network "
        "returns"
    )


def _shape_of_classes(out: torch.Tensor) -> tuple[int, ...]:
    """The shape of an output without the axis that its classes are on."""
    return (*out.shape[:1], *out.shape[2:]) if out.ndim > 1 else ()


def _as_classes(name: str, y: torch.Tensor) -> torch.Tensor:
    if y.is_floating_point() and not bool((y == y.round()).all()):
        raise ValueError(
            f"the loss {name} needs whole numbers as classes; the target has fractions"
        )
    return y.long()
