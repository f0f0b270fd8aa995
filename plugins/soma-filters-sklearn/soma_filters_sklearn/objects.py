"""Objects: estimators, and what configures them, as plain data and back.

``["sklearn.LogisticRegression", {"C": 0.5}]`` is an estimator, and so is its name alone where no
parameter differs from its default. The first element is a registered name or the import path of a
class: of an estimator, whoever wrote it, or of scikit-learn's kernels, splitters and column
selectors.
"""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from soma_filters_sklearn.catalogue import MODULES
from soma_filters_sklearn.parameters import Parameter, function_path, parameters_of

__all__ = [
    "HOMES",
    "NotSpelled",
    "attributes_learned",
    "build",
    "class_at",
    "class_or_none",
    "construct",
    "parameters_set_on",
    "resolve",
    "settings_beside",
    "spell",
    "spell_object",
    "unknown_name",
]

HOMES = {name: module for module, names in MODULES.items() for name in names}
_CONFIGURES = frozenset(
    {
        "sklearn.compose._column_transformer.make_column_selector",
        "sklearn.gaussian_process.kernels.Kernel",
        "sklearn.model_selection._split.BaseCrossValidator",
        "sklearn.model_selection._split.BaseShuffleSplit",
    }
)  # by name, since importing them all takes longer than most filters need
_SETTINGS = frozenset({"_metadata_request", "_sklearn_output_config"})
_EXACT = frozenset({"bool", "int64", "float64"})  # what a list of JSON gives back as it was
_PLAIN = (type(None), bool, int, float, str)


class NotSpelled(Exception):
    """A value that has no plain spelling, such as a fitted estimator or a lambda."""


def build(value: Any) -> Any:
    """What a value stands for, made anew: objects in place of their spellings.

    Raises:
        ValueError: A path leads to no such class, or a parameter is not one that it has.
    """
    if isinstance(value, str):
        return construct(value, {}) if _registered(value) else value
    if is_spelling(value):
        return construct(value[0], value[1])
    if isinstance(value, list | tuple):
        return type(value)(build(item) for item in value)
    if type(value) is dict:
        return {key: build(item) for key, item in value.items()}
    return copy.deepcopy(value)  # fitting changes the steps of a pipeline in place


def construct(path: str, config: Mapping[str, Any]) -> Any:
    """A new object of the class at a path.

    Args:
        path: A registered name, or the import path of a class.
        config: Its parameters, in their plain spelling.

    Raises:
        ValueError: The path leads to no such class, or a parameter is not one that it has.
    """
    found = class_at(path)
    known = parameters_of(found)
    for name in config:
        if name not in known:
            raise ValueError(unknown_name(path, name, known))
    missing = [name for name, item in known.items() if item.required and name not in config]
    if missing:
        raise ValueError(f"{path} cannot be made without {', '.join(missing)}")
    return found(**{name: resolve(known[name], value) for name, value in config.items()})


def resolve(parameter: Parameter, value: Any) -> Any:
    """The value of a parameter to give to an object: built, then resolved."""
    return parameter.resolve(build(parameter.normalize(value)))


def class_at(path: str) -> Any:
    """The class at an import path or of a registered name.

    Raises:
        ValueError: It does not import, or is none that may be configured.
    """
    module, _, name = _full_path(path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path!r} does not import ({type(error).__name__}: {error}); give the path of a class "
            "that this worker can import, as in 'sklearn.svm.SVC'"
        ) from error
    if not isinstance(found, type) or not _may_be_built(found):
        raise ValueError(
            f"{path!r} is no estimator: it has to be a class with get_params, set_params and fit, "
            "or one of scikit-learn's kernels, splitters and column selectors"
        )
    return found


def is_spelling(value: Any) -> bool:
    """Whether a value spells an object: ``[path, parameters]``."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    path, config = value
    return isinstance(path, str) and "." in path and isinstance(config, dict)


def is_object(value: Any) -> bool:
    """Whether a value is an object that might be spelled."""
    return not isinstance(value, type) and _may_be_built(type(value))


def spell(value: Any) -> Any:
    """A value in its plain spelling, which :func:`build` reads back.

    Raises:
        NotSpelled: It has none.
    """
    if isinstance(value, _PLAIN):
        return value
    if is_object(value):
        return list(spell_object(value))
    if isinstance(value, list | tuple):
        return [spell(item) for item in value]
    if type(value) is dict:
        return _spell_dict(value)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.name in _EXACT:
        return value.tolist()
    if isinstance(value, type) and issubclass(value, np.generic):
        return np.dtype(value).name
    path = function_path(value) if callable(value) else None
    if path is None:
        raise NotSpelled(f"a {type(value).__module__}.{type(value).__qualname__}")
    return path


def spell_object(value: Any) -> tuple[str, dict[str, Any]]:
    """The path of an object's class, and the parameters that differ from their defaults.

    Raises:
        NotSpelled: A parameter has no plain spelling, it holds more than its parameters
            (it is fitted), or its class cannot be imported.
    """
    given = parameters_set_on(value)
    held = attributes_learned(value) | settings_beside(value)
    if held:
        raise NotSpelled(f"a {type(value).__qualname__} that holds {', '.join(sorted(held))}")
    return _path_of(type(value)), {name: spell(item) for name, item in given.items()}


def attributes_learned(value: Any) -> set[str]:
    """The attributes that an object has and a new one of equal parameters has not."""
    given = {name: getattr(value, name) for name in parameters_of(type(value))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whoever made the object has been told
        new = type(value)(**given)
    return set(vars(value)) - set(vars(new)) - _SETTINGS


def settings_beside(value: Any) -> set[str]:
    """What has been set on an estimator beside its parameters: by ``set_output``, say."""
    return set(vars(value)) & _SETTINGS


def parameters_set_on(value: Any) -> dict[str, Any]:
    """The parameters of an object that differ from their defaults, as they are.

    Raises:
        NotSpelled: It does not keep what it was made with.
    """
    try:
        held = {name: getattr(value, name) for name in parameters_of(type(value))}
    except AttributeError as error:
        raise NotSpelled(str(error)) from None
    known = parameters_of(type(value))
    return {name: item for name, item in held.items() if not _is_default(known[name], item)}


def unknown_name(title: str, name: str, known: Iterable[str]) -> str:
    """What to say of a parameter that does not exist."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{title} has no parameter {name!r}; {hint}it has {', '.join(names)}"


def _registered(path: str) -> bool:
    return path.startswith("sklearn.") and path.removeprefix("sklearn.") in HOMES


def _full_path(path: str) -> str:
    name = path.removeprefix("sklearn.")
    return f"{HOMES[name]}.{name}" if _registered(path) else path


def _may_be_built(kind: type) -> bool:
    if all(callable(getattr(kind, name, None)) for name in ("get_params", "set_params", "fit")):
        return True
    return any(f"{base.__module__}.{base.__qualname__}" in _CONFIGURES for base in kind.__mro__)


def _path_of(kind: type) -> str:
    if class_or_none(f"sklearn.{kind.__name__}") is kind:
        return f"sklearn.{kind.__name__}"
    path = f"{kind.__module__}.{kind.__qualname__}"
    if kind.__module__ == "__main__" or class_or_none(path) is not kind:
        raise NotSpelled(f"a {path}, which other processes cannot import")
    return path


@functools.cache
def class_or_none(path: str) -> Any:
    """The class at a path; None if there is none."""
    try:
        return class_at(path)
    except ValueError:
        return None


def _is_default(parameter: Parameter, value: Any) -> bool:
    if value is parameter.default:
        return True
    return (
        isinstance(value, (*_PLAIN, tuple))
        and type(value) is type(parameter.default)
        and value == parameter.default
    )


def _spell_dict(value: dict[Any, Any]) -> Any:
    spelled: Callable[[Any], Any] = spell
    if all(isinstance(key, str) for key in value):
        return {key: spelled(item) for key, item in value.items()}
    return [[spelled(key), spelled(item)] for key, item in value.items()]
