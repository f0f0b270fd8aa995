"""Optimizers of torch by name: what a command, or the configuration of a filter, may ask for.

torch is imported when one is looked up.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def optimizer_class(spec: Mapping[str, Any]) -> type[torch.optim.Optimizer]:
    """The class of ``torch.optim`` that a specification names.

    Args:
        spec: ``{"name": "Adam", "lr": 0.001}``: the name of a class, and its arguments.

    Raises:
        ValueError: There is no class of that name that steps from gradients alone, or it has no
            such argument; the message lists what there is.
    """
    import torch

    name = spec.get("name")
    choices = {
        key: item
        for key, item in vars(torch.optim).items()
        if isinstance(item, type)
        and issubclass(item, torch.optim.Optimizer)
        and item is not torch.optim.Optimizer
        and inspect.signature(item.step).parameters["closure"].default is None
    }
    if not isinstance(name, str) or name not in choices:
        raise ValueError(
            f"there is no optimizer {name!r} that steps from gradients alone; expected a name "
            f'of torch.optim, as in {{"name": "Adam", "lr": 0.001}}: {", ".join(sorted(choices))}'
        )
    chosen = choices[name]
    known = list(inspect.signature(chosen).parameters)[1:]
    unknown = sorted(spec.keys() - {"name", *known})
    if unknown:
        raise ValueError(f"{name} has no argument {', '.join(unknown)}; it has {known}")
    return chosen


def build_optimizer(
    spec: Mapping[str, Any], parameters: Iterable[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """An optimizer over some parameters.

    Args:
        spec: As for :func:`optimizer_class`; lists in it become tuples.
        parameters: What it steps, at least one.

    Raises:
        ValueError: As for :func:`optimizer_class`, or the class refuses its arguments.
    """
    chosen: Any = optimizer_class(spec)
    arguments = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in spec.items()
        if key != "name"
    }
    try:
        built: torch.optim.Optimizer = chosen(list(parameters), **arguments)
    except Exception as error:
        raise ValueError(f"{spec['name']} refuses {arguments}: {error}") from None
    return built
