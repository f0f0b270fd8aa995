"""Holdings: what an object was made with, and what it holds beside."""

from __future__ import annotations

import warnings
from typing import Any

from soma_filters_sklearn.parameters import parameters_of

_SETTINGS = frozenset({"_metadata_request", "_sklearn_output_config"})
_PLAIN = (bool, int, float, str, tuple)


def parameters_held(value: Any) -> dict[str, Any]:
    """The parameters of an object, by name.

    They are those that ``get_params`` tells, which knows what a constructor takes as ``**kwargs``.
    Of an object without it, they are its attributes of the names in the constructor's signature.

    Raises:
        AttributeError: The object does not keep what it was made with.
    """
    told = getattr(value, "get_params", None)
    if told is not None:
        return dict(told(deep=False))
    arguments = getattr(value, "cvargs", {})  # where splitters that repeat others keep theirs
    return {
        name: arguments[name] if name in arguments else getattr(value, name)
        for name in parameters_of(type(value))
    }


def parameters_set_on(value: Any) -> dict[str, Any]:
    """The parameters of an object that differ from their defaults, as they are.

    Raises:
        AttributeError: The object does not keep what it was made with.
    """
    held = parameters_held(value)
    return differing(held, _defaults_of(type(value), held))


def differing(parameters: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """The parameters that are not the same, or equal numbers, texts or tuples, in others."""
    return {
        name: item
        for name, item in parameters.items()
        if name not in others or not _equal(item, others[name])
    }


def remade(value: Any, parameters: dict[str, Any]) -> Any:
    """A new object of the same class, made with these parameters.

    Raises:
        Exception: Whatever the class raises where it does not take them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whoever made the object has been told
        return type(value)(**parameters)


def attributes_learned(value: Any) -> set[str]:
    """The attributes that an object has and a new one of equal parameters has not.

    Raises:
        AttributeError: The object does not keep what it was made with.
    """
    return set(vars(value)) - set(vars(remade(value, parameters_held(value)))) - _SETTINGS


def settings_beside(value: Any) -> set[str]:
    """What has been set on an estimator beside its parameters: by ``set_output``, say."""
    return set(vars(value)) & _SETTINGS


def _defaults_of(kind: type, held: dict[str, Any]) -> dict[str, Any]:
    """The defaults by name: of what comes through ``**kwargs``, what a new object tells."""
    known = parameters_of(kind)
    defaults = {name: item.default for name, item in known.items() if not item.required}
    if held.keys() <= known.keys() or len(defaults) < len(known):
        return defaults
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return parameters_held(kind()) | defaults


def _equal(value: Any, other: Any) -> bool:
    if value is other:
        return True
    return isinstance(value, _PLAIN) and type(value) is type(other) and value == other
