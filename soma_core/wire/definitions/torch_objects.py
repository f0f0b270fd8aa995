"""What torch refuses to pickle, or of which it leaves something out."""

from __future__ import annotations

import io
import sys
import warnings
from typing import Any


def of(obj: Any) -> tuple[Any, ...] | None:
    """How to pickle an object of torch; None leaves it to torch."""
    torch: Any = sys.modules["torch"]
    if isinstance(obj, _named(torch, "optim.Optimizer")):
        return _hooked(obj)
    if not isinstance(obj, _named(torch, "nn.Module")):
        return None
    if isinstance(obj, _named(torch, "jit.ScriptModule")):
        return _scripted(obj)
    parametrize = sys.modules.get("torch.nn.utils.parametrize")
    if parametrize is not None and parametrize.is_parametrized(obj):
        return _parametrized(obj)
    return None


def _named(module: Any, path: str) -> Any:
    """A class of torch; nothing as long as torch is being imported."""
    for name in path.split("."):
        module = getattr(module, name, ())
    return module


def _hooked(optimizer: Any) -> tuple[Any, ...] | None:
    """An optimizer with its hooks, such as one that clips: torch leaves them out of a pickle."""
    hooks = {
        key: value for key, value in vars(optimizer).items() if key.endswith("_hooks") and value
    }
    make, args, state, *rest = optimizer.__reduce_ex__(5)
    return (make, args, state | hooks, *rest) if any(hooks.values()) else None


def _scripted(module: Any) -> tuple[Any, ...]:
    """A module that torch compiled, which has a format of its own."""
    return _load_scripted, (module.save_to_buffer(),)


def _load_scripted(data: bytes) -> Any:
    import torch

    with warnings.catch_warnings():  # whoever made it was told that this goes out of use
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(io.BytesIO(data))  # type: ignore[no-untyped-call]


def _parametrized(module: Any) -> tuple[Any, ...]:
    """A module whose weights are computed: torch made a class for it alone."""
    plain = type(module).__mro__[1]
    state = super(type(module), module).__getstate__()
    return plain.__new__, (plain,), state, None, None, _parametrize


def _parametrize(module: Any, state: Any) -> None:
    from torch.nn.utils import parametrize

    module.__setstate__(state)
    parametrize._inject_new_class(module)
    for name in module.parametrizations:
        parametrize._inject_property(module, name)
