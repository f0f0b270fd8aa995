"""Building: networks and layers from their names."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn

from soma_core.configuration import check_import
from soma_core.execution import fingerprint
from soma_filters_torch.spelling import unknown

_OF_MODULES = frozenset({"module", "args", "kwargs"})
_HOME = "torch.nn"
_BELOW = (f"{_HOME}.modules",)  # not torch.nn.quantized, whose kernels trust what they are given

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PARAMETERS_AGAIN = frozenset({"_flat_weights", "_flat_weight_refs"})  # of recurrent layers

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
    if not home:
        raise ValueError(f"module={path!r} is no import path; use one like 'torch.nn.Linear'")
    try:
        module = importlib.import_module(home)
    except Exception as error:  # the top level of a module may raise anything
        raise ValueError(
            f"module={path!r} does not import ({type(error).__name__}: {error}); give the path of "
            "an nn.Module class that is installed where the filter runs, or the module itself"
        ) from error
    found = getattr(module, name, None)
    if found is None:
        raise ValueError(unknown(f"name in module {home}", name, _modules_in(module)))
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"module={path!r} is {found!r}; expected a subclass of torch.nn.Module")
    return found


def takes(module: nn.Module, x: Any) -> bool:
    """Whether a module can be called with one input, as far as its signature says."""
    try:
        inspect.signature(module.forward).bind(x)
    except TypeError:
        return False
    except ValueError:  # it has none
        pass
    return True


def copied(module: nn.Module) -> nn.Module:
    """A copy that learns for itself, also of what torch does not copy.

    That are tensors that were computed from parameters, as ``weight_norm`` and pruning keep them,
    and the parameters of a module that torch compiled.
    """
    computed = [
        value
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    ]
    with torch.no_grad():
        made = copy.deepcopy(module, {id(value): value.clone() for value in computed})
    for own, new in zip(module.parameters(), made.parameters(), strict=True):
        if new.requires_grad != own.requires_grad:  # a lazy one cannot even be asked to
            new.requires_grad_(own.requires_grad)
    return made


def check_modules(path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse paths, here and among the arguments, that lead into modules not to be imported.

    Raises:
        ValueError: One does; see :func:`~soma_core.configuration.check_import`.
    """
    for named in _paths(path, args, kwargs):
        home = named.rpartition(".")[0]
        if home != _HOME:
            check_import(home, own=_BELOW)


def _paths(path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[str]:
    """The paths that :func:`build_module` would import for the same arguments."""
    yield path
    for argument in (*args, *kwargs.values()):
        yield from _paths_within(argument)


def _paths_within(argument: Any) -> Iterator[str]:
    if _is_module(argument):
        yield from _paths(**_spelled(argument))
    elif isinstance(argument, list | dict):
        for item in argument.values() if isinstance(argument, dict) else argument:
            yield from _paths_within(item)


def build_module(path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> nn.Module:
    """An instance of the class at an import path.

    Args:
        path: The path of the class.
        args: Its positional arguments. Among these, as among the others, and in lists and dicts,
            ``{"module": path, "args": […], "kwargs": {…}}`` stands for a module that is built.
        kwargs: Its keyword arguments.

    Raises:
        ValueError: The path does not lead to a module class, or the arguments do not fit it.
    """
    found = module_class(path)
    built_args = [_built(item) for item in args]
    built_kwargs = {key: _built(item) for key, item in kwargs.items()}
    try:
        return found(*built_args, **built_kwargs)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ValueError(
            f"{path} cannot be built from args={list(args)!r} and kwargs={dict(kwargs)!r}: "
            f"{error}; it takes {inspect.signature(found)}"
        ) from error


def _built(argument: Any) -> Any:
    """An argument with the modules in it built."""
    if isinstance(argument, list):
        return [_built(item) for item in argument]
    if _is_module(argument):
        return build_module(**_spelled(argument))
    if isinstance(argument, dict):
        return {key: _built(item) for key, item in argument.items()}
    return argument


def _is_module(argument: Any) -> bool:
    """Whether an argument stands for a module that is to be built."""
    return (
        isinstance(argument, dict)
        and isinstance(argument.get("module"), str)
        and argument.keys() <= _OF_MODULES
    )


def _spelled(argument: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of :func:`build_module` for such an argument.

    Raises:
        ValueError: Its arguments are no list and no object.
    """
    args, kwargs = argument.get("args", []), argument.get("kwargs", {})
    if not (isinstance(args, list) and isinstance(kwargs, dict)):
        raise ValueError(
            f"the module {argument['module']!r} has args, a list, and kwargs, an object; got "
            f"{type(args).__name__} and {type(kwargs).__name__}"
        )
    return {"path": argument["module"], "args": args, "kwargs": kwargs}


def content_hash(module: nn.Module) -> str:
    """A hash of what a module is and holds: classes, settings, parameters and buffers.

    Whether it is in training mode, and the hooks that it carries, do not count.

    Raises:
        TypeError: It holds an object whose content soma cannot hash.
    """
    parts = module.named_modules(remove_duplicate=False)
    return fingerprint([[name, type(part), _settings(part)] for name, part in parts])


def _settings(module: nn.Module) -> dict[str, Any]:
    """What a module holds beside other modules."""
    apart = _OF_EVERY_MODULE | _PARAMETERS_AGAIN
    own = {key: item for key, item in vars(module).items() if key not in apart}
    return own | {"_parameters": module._parameters, "_buffers": module._buffers}


def _modules_in(module: ModuleType) -> list[str]:
    return [
        name
        for name, found in vars(module).items()
        if isinstance(found, type) and issubclass(found, nn.Module)
    ]
