"""Building: networks, layers and optimizers from their names."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from soma_filters_torch.spelling import unknown

__all__ = ["activation_class", "build_module", "build_optimizer", "module_class", "optimizer_class"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def activation_class(name: str) -> type[nn.Module]:
    """The layer of an activation's name, such as ``"relu"``.

    Raises:
        ValueError: There is none; the message names the closest ones.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(unknown("activation", name, _ACTIVATIONS))
    return _ACTIVATIONS[name]


def module_class(path: str) -> type[nn.Module]:
    """The ``nn.Module`` class at an import path, such as ``"torch.nn.Linear"``.

    Raises:
        ValueError: The path does not import, or leads to something else.
    """
    home, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(home), name)
    except ValueError:
        raise ValueError(
            f"module={path!r} is no import path; use one like 'torch.nn.Linear'"
        ) from None
    except ImportError as error:
        raise ValueError(
            f"module={path!r} does not import ({error}); give the path of an nn.Module class that "
            "is installed where the filter runs"
        ) from error
    except AttributeError:
        raise ValueError(unknown(f"name in module {home}", name, _modules_in(home))) from None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"module={path!r} is {found!r}; expected a subclass of torch.nn.Module")
    return found


def build_module(path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> nn.Module:
    """An instance of the class at an import path.

    Raises:
        ValueError: The path does not lead to a module class, or the arguments do not fit it.
    """
    found = module_class(path)
    try:
        return found(*args, **kwargs)
    except TypeError as error:
        raise ValueError(
            f"{path} cannot be built from args={list(args)!r} and kwargs={kwargs!r}: {error}; "
            f"it takes {inspect.signature(found)}"
        ) from error


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The class of ``torch.optim`` that has a name, such as ``"Adam"``.

    Raises:
        ValueError: There is none, or it is one that needs the loss evaluated again and again.
    """
    known = {
        key: found
        for key, found in vars(torch.optim).items()
        if isinstance(found, type)
        and issubclass(found, torch.optim.Optimizer)
        and found not in (torch.optim.Optimizer, torch.optim.LBFGS)
    }
    if name == "LBFGS":
        raise ValueError("the optimizer LBFGS evaluates the loss many times a step; use another")
    if name not in known:
        raise ValueError(unknown("optimizer", name, known))
    return known[name]


def build_optimizer(
    name: str, module: nn.Module, lr: float, options: dict[str, Any]
) -> torch.optim.Optimizer | None:
    """An optimizer over the parameters of a module; None if it has none.

    Raises:
        ValueError: The optimizer refuses its options, or the parameters.
    """
    parameters = list(module.parameters())
    if not parameters:
        return None
    make: Any = optimizer_class(name)
    try:
        optimizer: torch.optim.Optimizer = make(parameters, lr=lr, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the optimizer {name} refuses lr={lr!r} and optimizer_options={options!r}: {error}"
        ) from error
    return optimizer


def _modules_in(home: str) -> list[str]:
    return [
        name
        for name, found in vars(importlib.import_module(home)).items()
        if isinstance(found, type) and issubclass(found, nn.Module)
    ]
