"""Parameters: an estimator's constructor arguments as configuration that is plain data.

JSON has no tuples, functions, dtypes or objects, so each has a plain spelling here: a list where
only a tuple will do, pairs for a dict whose keys are no texts, the import path of a function
(``"sklearn.feature_selection.chi2"``), the name of a dtype (``"float32"``). Objects have theirs in
:mod:`soma_filters_sklearn.objects`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Parameter", "check_parameters", "function_at", "function_path", "parameters_of"]

_FUNCTION_MODULES = ("numpy", "sklearn.feature_selection", "sklearn.metrics")
_NUMPY_REDUCTIONS = frozenset({"max", "mean", "median", "min", "std", "sum", "var"})
_NAMED_LISTS = frozenset({"estimators", "steps", "transformer_list", "transformers"})
_ARRAYS = frozenset({"dictionary"})  # SparseCoder declares that it takes lists, and does not


@dataclass(frozen=True)
class Parameter:
    """One constructor argument of an estimator.

    Attributes:
        name: Its name, which is also the name of the filter's field.
        default: Its default as scikit-learn has it; ``inspect.Parameter.empty`` if it has none.
        constraints: What scikit-learn accepts, from the estimator's own declaration.
    """

    name: str
    default: Any
    constraints: tuple[Any, ...] = ()

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is inspect.Parameter.empty

    @property
    def plain_default(self) -> Any:
        """The default in its plain spelling, which :meth:`resolve` reads back."""
        if self._is_dtype:
            return np.dtype(self.default).name
        if callable(self.default):
            return function_path(self.default)
        return self.default

    def normalize(self, value: Any) -> Any:
        """The value to keep in the field: a list becomes a tuple where scikit-learn insists."""
        only_tuple = tuple in self.constraints and list not in self.constraints
        return tuple(value) if only_tuple and isinstance(value, list) else value

    def resolve(self, value: Any) -> Any:
        """The value to give to the estimator: functions and dtypes in place of their names.

        Raises:
            ValueError: The name of a function or dtype leads nowhere, or a configuration names
                a cache directory.
        """
        if isinstance(value, list):
            return self._resolve_list(value)
        if not isinstance(value, str):
            return value
        if self.name == "memory":
            raise ValueError(
                f"memory={value!r}: a cache directory holds pickles, which scikit-learn would "
                "read and so run whatever anybody puts there; leave it None"
            )
        if self._is_dtype:
            return _dtype_named(self.name, value)
        if callable in self.constraints and _module_of(value) in _FUNCTION_MODULES:
            return function_at(value, self.name)
        return value

    def _resolve_list(self, value: list[Any]) -> Any:
        if self.name in _NAMED_LISTS:
            return [tuple(item) if isinstance(item, list) else item for item in value]
        if dict in self.constraints and value and all(map(_is_pair, value)):
            return dict(value)
        if self._needs_array:
            return np.asarray(value)
        return value

    @property
    def _is_dtype(self) -> bool:
        return isinstance(self.default, type) and issubclass(self.default, np.generic)

    @property
    def _needs_array(self) -> bool:
        if self.name in _ARRAYS:
            return True
        declared = self.constraints
        return np.ndarray in declared and list not in declared and "array-like" not in declared


def _signature_of(constructible: Any) -> list[inspect.Parameter]:
    """The constructor arguments of an estimator class, without ``self``."""
    constructor = getattr(constructible.__init__, "deprecated_original", constructible.__init__)
    if constructor is object.__init__:
        return []
    return list(inspect.signature(constructor).parameters.values())[1:]


def parameters_of(constructible: Any) -> dict[str, Parameter]:
    """The parameters of an estimator class, by name, in the order of its signature."""
    declared = getattr(constructible, "_parameter_constraints", {})
    return {
        item.name: Parameter(item.name, item.default, _as_tuple(declared.get(item.name)))
        for item in _signature_of(constructible)
        if item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)
    }


def check_parameters(estimator: Any) -> None:
    """Check the values of an estimator's parameters by the estimator's own declaration.

    Raises:
        ValueError: A value is not one that the parameter accepts; the message lists those.
    """
    if hasattr(estimator, "_parameter_constraints"):
        estimator._validate_params()


def function_path(function: Callable[..., Any]) -> str | None:
    """The path by which a function can be configured, such as ``numpy.mean``; None without one."""
    name = getattr(function, "__name__", "")
    for module in _FUNCTION_MODULES:
        found = getattr(importlib.import_module(module), name, None)
        if found is function and _usable(module, name, found):
            return f"{module}.{name}"
    return None


def function_at(path: str, parameter: str = "function") -> Callable[..., Any]:
    """The function at a path, if it is one that can be configured.

    Raises:
        ValueError: It is not.
    """
    module, _, name = path.rpartition(".")
    known = module in _FUNCTION_MODULES
    function = getattr(importlib.import_module(module), name, None) if known else None
    if function is None or not _usable(module, name, function):
        raise ValueError(
            f"{parameter}={path!r} names no function that can be configured by name; use a "
            "function of sklearn.feature_selection or sklearn.metrics, a numpy ufunc such as "
            f"'numpy.log1p', or one of numpy's {', '.join(sorted(_NUMPY_REDUCTIONS))}"
        )
    resolved: Callable[..., Any] = function
    return resolved


def _usable(module: str, name: str, function: Any) -> bool:
    """Whether it may be named: of numpy only what does nothing but compute."""
    if module == "numpy":
        return isinstance(function, np.ufunc) or name in _NUMPY_REDUCTIONS
    return inspect.isfunction(function)


def _is_pair(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and not isinstance(item[0], list | dict)


def _as_tuple(constraints: Any) -> tuple[Any, ...]:
    return tuple(constraints) if isinstance(constraints, list) else ()


def _module_of(path: str) -> str:
    return path.rpartition(".")[0]


def _dtype_named(parameter: str, name: str) -> type[np.generic]:
    try:
        return np.dtype(name).type
    except TypeError:
        raise ValueError(
            f"{parameter}={name!r} names no numpy dtype; use a name like 'float64' or 'float32'"
        ) from None
