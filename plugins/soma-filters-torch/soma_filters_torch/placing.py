"""Placing: on which device a network runs, and in which types it computes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch
from torch import nn

from soma_filters_torch.tensors import map_tensors, numeric_type

ParameterType = Literal["float64", "float32", "bfloat16", "float16"]
AutocastType = Literal["bfloat16", "float16"]

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


def check_device_name(name: str) -> str:
    """Return the name of a device.

    Raises:
        ValueError: It is not one of ``"cpu"``, ``"cuda"`` and ``"cuda:N"``.
    """
    if not _DEVICE.fullmatch(name):
        raise ValueError(f"device is 'cpu', 'cuda' or a numbered one like 'cuda:1'; got {name!r}")
    return name


@dataclass(frozen=True)
class Placement:
    """Where and in what types a network computes, as configured.

    Attributes:
        device: The device; None leaves the network where it was built.
        dtype: The type of its floating parameters and buffers; None leaves them as built.
        autocast: The type in which torch computes what it holds safe to; None is their own.
    """

    device: str | None
    dtype: ParameterType | None
    autocast: AutocastType | None

    def check(self) -> None:
        """Make sure that the device is there.

        Raises:
            ValueError: It is not; the message lists those that are.
        """
        if self.device is None or self.device == "cpu":
            return
        found = [
            f"'cuda:{number}' ({torch.cuda.get_device_name(number)})"
            for number in range(torch.cuda.device_count())
        ]
        index = torch.device(self.device).index or 0
        if index >= len(found):
            there = ", ".join(["'cpu'", *found])
            reason = "" if found else f"torch {torch.__version__} finds no CUDA device; "
            raise ValueError(
                f"device={self.device!r} is not there: {reason}this worker has {there}; choose one "
                "of these, or run the worker where the device is"
            )

    def put(self, module: nn.Module) -> nn.Module:
        """Bring a network to its place.

        Raises:
            ValueError: It has parameters without a shape yet, which cannot be trained or sent, or
                of a type from which autocast does not cast.
        """
        for name, item in chain(module.named_parameters(), module.named_buffers()):
            if nn.parameter.is_lazy(item):
                raise ValueError(
                    f"{type(module).__name__}: {name} has no shape before the first input, as lazy "
                    "modules do; give the sizes instead (Linear for LazyLinear)"
                )
        dtype = None if self.dtype is None else getattr(torch, self.dtype)
        placed = module.to(device=self.device, dtype=dtype)
        own, _ = numeric_type(placed)
        if self.autocast is not None and own is not torch.float32:
            raise ValueError(
                f"autocast={self.autocast!r} is for parameters of type float32, and those of "
                f"{type(module).__name__} are {own}; leave one of the two out"
            )
        return placed

    def check_training(self) -> None:
        """Make sure that training in these types comes to something.

        Raises:
            ValueError: Gradients would vanish in them.
        """
        if "float16" not in (self.dtype, self.autocast):
            return
        for name, chosen in {"dtype": self.dtype, "autocast": self.autocast}.items():
            if chosen == "float16":
                raise ValueError(
                    f"{name}='float16' is for forward only: small gradients vanish in it unless "
                    "the loss is scaled, which this filter does not do; train with 'bfloat16'"
                )

    def run(self, module: nn.Module, x: Any) -> Any:
        """Call a network; outputs of a smaller type that autocast made take its own again."""
        if self.autocast is None:
            return module(**x) if isinstance(x, dict) else module(x)
        dtype, device = numeric_type(module)
        with torch.autocast(device.type, dtype=getattr(torch, self.autocast)):
            out = module(**x) if isinstance(x, dict) else module(x)
        return map_tensors(out, lambda item: item.to(dtype) if item.is_floating_point() else item)
