"""Losses: functions of torch by name, with targets made to fit outputs, and any function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from soma_filters_torch.spelling import arguments_of, unknown
from soma_filters_torch.tensors import to_target

_FUNCTIONS = "torch.nn.functional."
_OF_CLASSES = frozenset({"cross_entropy", "multi_margin_loss", "nll_loss"})
_OF_PROBABILITIES_TOO = "cross_entropy"
_OF_NO_USE = frozenset({"size_average", "reduce"})
_REDUCTIONS = ("mean", "sum")

Loss = Callable[..., torch.Tensor]


def check_loss(choice: dict[str, Any] | Loss) -> None:
    """Refuse what does not choose a loss.

    Args:
        choice: The name of a function of ``torch.nn.functional``, short or with its path, and
            its arguments; or any function of an output and a target.

    Raises:
        ValueError: There is none, or it does not have these arguments; the message lists what
            there is.
    """
    if callable(choice):
        return
    function = _function(choice["name"])
    arguments = arguments_of(choice)
    known = set(list(inspect.signature(function).parameters)[2:]) - _OF_NO_USE
    foreign = sorted(arguments.keys() - known)
    if foreign:
        raise ValueError(
            f"the loss {choice['name']} has no argument {', '.join(foreign)}; it has "
            f"{', '.join(sorted(known))}"
        )
    reductions = (*_REDUCTIONS, "batchmean") if function is functional.kl_div else _REDUCTIONS
    reduction = arguments.get("reduction", "mean")
    if reduction not in reductions:
        raise ValueError(
            f"a loss is one number: reduction is {' or '.join(map(repr, reductions))}; "
            f"got {reduction!r}"
        )


def compute_loss(choice: dict[str, Any] | Loss, out: Any, y: Any) -> torch.Tensor:
    """The loss of an output.

    Args:
        choice: What :func:`check_loss` accepts; lists among its arguments (the weights of
            classes) become tensors of the output's type. A function is given the target as it
            came; fractions take the type of the output.
        out: The output of the network.
        y: The target: a tensor, an array or lists. Whole numbers are classes where the loss is
            about classes and the output has one axis more; else the shapes must be equal.

    Raises:
        ValueError: The output is not a tensor, or the target does not fit it.
    """
    name = (
        getattr(choice, "__name__", type(choice).__name__) if callable(choice) else choice["name"]
    )
    if not isinstance(out, torch.Tensor):
        raise ValueError(
            f"the network returned a {type(out).__name__}; the loss {name} needs a tensor"
        )
    if callable(choice):
        target = to_target(y, out.device)
        return choice(out, target.to(out.dtype) if target.is_floating_point() else target)
    function = _function(name)
    target = _fitting(name, function.__name__, out, to_target(y, out.device))
    arguments = _arguments(choice, out) if len(choice) > 1 else {}
    try:
        return function(out, target, **arguments)
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(
            f"the loss {choice} cannot compare an output of shape {list(out.shape)} and type "
            f"{out.dtype} with a target of type {target.dtype}: {error}"
        ) from error


def _arguments(choice: dict[str, Any], out: torch.Tensor) -> dict[str, Any]:
    return {
        key: torch.tensor(value, dtype=out.dtype, device=out.device)
        if isinstance(value, list)
        else value
        for key, value in arguments_of(choice).items()
    }


@cache
def _function(name: str) -> Loss:
    functions = _functions()
    short = _short(name.removeprefix(_FUNCTIONS))
    if short not in functions:
        raise ValueError(
            f"{unknown('loss', name, functions)} (functions of torch.nn.functional, whose full "
            "names serve as well)"
        )
    return functions[short]


@cache
def _functions() -> dict[str, Loss]:
    """The losses of an input and a target, by their short names."""
    return {
        _short(name): found
        for name, found in vars(functional).items()
        if callable(found) and not name.startswith("_") and _compares_two(found)
    }


def _compares_two(function: Loss) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # a builtin without a signature
        return False
    needed = [p.name for p in parameters if p.default is p.empty]
    return needed == ["input", "target"]


def _short(name: str) -> str:
    return name.removesuffix("_loss").replace("binary_cross_entropy", "bce")


def _fitting(name: str, function: str, out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if function in _OF_CLASSES and y.shape == _shape_of_classes(out):
        return _as_classes(name, y)
    by_element = function not in _OF_CLASSES or function == _OF_PROBABILITIES_TOO
    if by_element and y.shape == out.shape:
        return y if function == "multilabel_margin_loss" else y.to(out.dtype)
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
