"""Parameters: an estimator's constructor arguments as configuration that is plain data.

JSON has no tuples, functions or dtypes, so each has a plain spelling here: a list where only a
tuple will do, the import path of a function (``"sklearn.feature_selection.chi2"``), the name of
a dtype (``"float32"``).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Parameter", "check_parameters", "parameters_of", "signature_of"]

_FUNCTION_MODULES = ("numpy", "sklearn.feature_selection", "sklearn.metrics")
_NUMPY_REDUCTIONS = frozenset({"max", "mean", "median", "min", "std", "sum", "var"})


@dataclass(frozen=True)
class Parameter:
    """One constructor argument of an estimator.

    Attributes:
        name: Its name, which is also the name of the filter's field.
        default: Its default as scikit-learn has it.
        constraints: What scikit-learn accepts, from the estimator's own declaration.
    """

    name: str
    default: Any
    constraints: tuple[Any, ...] = ()

    @property
    def plain_default(self) -> Any:
        """The default in its plain spelling, which :meth:`resolve` reads back."""
        if self._is_dtype:
            return np.dtype(self.default).name
        if callable(self.default):
            return _path_of(self.default)
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
            return _function_at(self.name, value)
        return value

    @property
    def _is_dtype(self) -> bool:
        return isinstance(self.default, type) and issubclass(self.default, np.generic)


def signature_of(estimator_class: Any) -> list[inspect.Parameter]:
    """The constructor arguments of an estimator class, without ``self``."""
    constructor = getattr(estimator_class.__init__, "deprecated_original", estimator_class.__init__)
    if constructor is object.__init__:
        return []
    return list(inspect.signature(constructor).parameters.values())[1:]


def parameters_of(estimator_class: Any) -> dict[str, Parameter]:
    """The parameters of an estimator class, by name, in the order of its signature."""
    declared = getattr(estimator_class, "_parameter_constraints", {})
    return {
        item.name: Parameter(item.name, item.default, _as_tuple(declared.get(item.name)))
        for item in signature_of(estimator_class)
    }


def check_parameters(estimator: Any) -> None:
    """Check the values of an estimator's parameters by the estimator's own declaration.

    Raises:
        ValueError: A value is not one that the parameter accepts; the message lists those.
    """
    if hasattr(estimator, "_parameter_constraints"):
        estimator._validate_params()


def _as_tuple(constraints: Any) -> tuple[Any, ...]:
    return tuple(constraints) if isinstance(constraints, list) else ()


def _module_of(path: str) -> str:
    return path.rpartition(".")[0]


def _path_of(function: Callable[..., Any]) -> str:
    """The public path of a function, such as ``numpy.mean``."""
    name = function.__name__
    return next(
        f"{module}.{name}"
        for module in _FUNCTION_MODULES
        if getattr(importlib.import_module(module), name, None) is function
    )


def _dtype_named(parameter: str, name: str) -> type[np.generic]:
    try:
        return np.dtype(name).type
    except TypeError:
        raise ValueError(
            f"{parameter}={name!r} names no numpy dtype; use a name like 'float64' or 'float32'"
        ) from None


def _function_at(parameter: str, path: str) -> Callable[..., Any]:
    """The function at a path; of numpy only those that do nothing but compute."""
    module, _, name = path.rpartition(".")
    function = getattr(importlib.import_module(module), name, None)
    computes = isinstance(function, np.ufunc) or name in _NUMPY_REDUCTIONS
    usable = computes if module == "numpy" else inspect.isfunction(function)
    if function is None or not usable:
        raise ValueError(
            f"{parameter}={path!r} names no function that can be configured by name; use a "
            "function of sklearn.feature_selection or sklearn.metrics, a numpy ufunc such as "
            f"'numpy.log1p', or one of numpy's {', '.join(sorted(_NUMPY_REDUCTIONS))}"
        )
    resolved: Callable[..., Any] = function
    return resolved
