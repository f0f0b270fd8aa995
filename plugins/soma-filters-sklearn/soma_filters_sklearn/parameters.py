"""Parameters: an estimator's constructor arguments as configuration that is plain data.

JSON has no tuples, functions, dtypes or objects. Where a parameter takes only such a thing, a short
form stands for it: a list where only a tuple will do, pairs for a dict whose keys are no texts, the
path of a function (``"sklearn.feature_selection.chi2"``), the name of a dtype (``"float32"``).
What has no short form is spelled in full, see :mod:`soma_filters_sklearn.spelling`.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np

from soma_filters_sklearn.functions import function_at, function_path, is_function_path

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
    default: Any = inspect.Parameter.empty
    constraints: tuple[Any, ...] = ()

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is inspect.Parameter.empty

    @property
    def plain_default(self) -> Any:
        """The default in its plain spelling, which :meth:`lengthen` reads back."""
        short = self.shorten(self.default)
        return self.default if isinstance(self.default, tuple) else short

    def normalize(self, value: Any) -> Any:
        """The value to keep in the field: a list becomes a tuple where scikit-learn insists."""
        return tuple(value) if self._only_tuple and isinstance(value, list) else value

    def shorten(self, value: Any) -> Any:
        """The short form of a value; the value itself if it has none."""
        if isinstance(value, type) and self._is_dtype and issubclass(value, np.generic):
            return np.dtype(value).name
        if callable(value) and callable in self.constraints:
            return function_path(value) or value
        if type(value) is tuple and self._only_tuple:
            return list(value)
        if self.name in _NAMED_LISTS and _holds_tuples(value):
            return [list(item) for item in value]
        if type(value) is np.ndarray and self._needs_array and value.dtype.name in _EXACT:
            return value.tolist()
        if type(value) is dict and dict in self.constraints and _has_pairs(value):
            return [list(item) for item in value.items()]
        return value

    def lengthen(self, value: Any) -> Any:
        """The value that a short form stands for; the value itself if it is none.

        Raises:
            ValueError: The name of a function or dtype leads nowhere.
        """
        if isinstance(value, list):
            return self._lengthen_list(value)
        if not isinstance(value, str):
            return value
        if self._is_dtype:
            return _dtype_named(self.name, value)
        if callable in self.constraints and is_function_path(value):
            return function_at(value, self.name)
        return value

    def _lengthen_list(self, value: list[Any]) -> Any:
        if self._only_tuple:
            return tuple(value)
        if self.name in _NAMED_LISTS:
            return [tuple(item) if isinstance(item, list) else item for item in value]
        if dict in self.constraints and value and all(map(_is_pair, value)):
            return dict(value)
        if self._needs_array:
            return np.asarray(value)
        return value

    @property
    def _only_tuple(self) -> bool:
        return tuple in self.constraints and list not in self.constraints

    @property
    def _is_dtype(self) -> bool:
        return isinstance(self.default, type) and issubclass(self.default, np.generic)

    @property
    def _needs_array(self) -> bool:
        if self.name in _ARRAYS:
            return True
        declared = self.constraints
        return np.ndarray in declared and list not in declared and "array-like" not in declared


_EXACT = frozenset({"bool", "int64", "float64"})  # what a list of JSON gives back as it was


def parameters_of(constructible: Any) -> dict[str, Parameter]:
    """The parameters in the signature of an estimator class, by name and in that order."""
    declared = getattr(constructible, "_parameter_constraints", {})
    return {
        item.name: Parameter(item.name, item.default, _as_tuple(declared.get(item.name)))
        for item in _signature_of(constructible)
        if item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)
    }


def takes_any(constructible: Any) -> bool:
    """Whether the constructor of a class takes ``**kwargs``."""
    return any(item.kind is item.VAR_KEYWORD for item in _signature_of(constructible))


def check_parameters(estimator: Any) -> None:
    """Check the values of an estimator's parameters by the estimator's own declaration.

    Raises:
        ValueError: A value is not one that the parameter accepts; the message lists those.
    """
    if hasattr(estimator, "_parameter_constraints"):
        estimator._validate_params()


def _signature_of(constructible: Any) -> list[inspect.Parameter]:
    """The constructor arguments of an estimator class, without ``self``."""
    constructor = getattr(constructible.__init__, "deprecated_original", constructible.__init__)
    if constructor is object.__init__:
        return []
    return list(inspect.signature(constructor).parameters.values())[1:]


def _has_pairs(value: dict[Any, Any]) -> bool:
    """Whether a dict may be written as pairs, and has to be since its keys are no texts."""
    return not all(type(key) is str for key in value) and all(
        map(_is_pair, map(list, value.items()))
    )


def _holds_tuples(value: Any) -> bool:
    return type(value) is list and bool(value) and all(type(item) is tuple for item in value)


def _is_pair(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and not isinstance(item[0], list | dict)


def _as_tuple(constraints: Any) -> tuple[Any, ...]:
    return tuple(constraints) if isinstance(constraints, list) else ()


def _dtype_named(parameter: str, name: str) -> type[np.generic]:
    try:
        return np.dtype(name).type
    except TypeError:
        raise ValueError(
            f"{parameter}={name!r} names no numpy dtype; use a name like 'float64' or 'float32'"
        ) from None
