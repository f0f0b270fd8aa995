"""State: what fitting left on an estimator, by attribute name.

Attributes travel as :mod:`soma_filters_sklearn.packing` spells them. One that holds anything that
has no spelling is left as an object, for the wire to pickle or to refuse.

What fitting changes in place, such as the steps of a pipeline, is under the name of the parameter
that holds it: ``state["steps"]["scale"]["mean_"]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import __version__ as sklearn_version
from sklearn.preprocessing import FunctionTransformer

from soma_filters_sklearn.holdings import attributes_learned
from soma_filters_sklearn.literals import TAG, tagged
from soma_filters_sklearn.packing import (
    NotPackable,
    attributes_of,
    pack,
    reads_own_state,
    set_attributes,
    unpack,
)

_VERSION = "_sklearn_version"
_CLASSES = "classes"
_OPAQUE = frozenset({"catboost"})  # packages whose models are bytes for their own compiled code


def learned_state(estimator: Any) -> dict[str, Any]:
    """Everything that an estimator holds beside its parameters, by attribute name.

    It includes ``_sklearn_version``, so that a state learned by another release is noticed.
    """
    parameters = estimator.get_params(deep=False)
    attributes = attributes_of(estimator).items()
    carry = _in_one_piece if _is_opaque(estimator) else _carried
    state = {name: carry(value) for name, value in attributes if name not in parameters}
    inside = {name: _learned_inside(value) for name, value in parameters.items()}
    return state | {name: learned for name, learned in inside.items() if learned}


def _learned_inside(value: Any) -> dict[str, Any]:
    """What estimators inside a parameter learned: of one, or by the names in a list of them."""
    if has_learned(value):
        return learned_state(value)
    if not isinstance(value, list):
        return {}
    named = _named_in(value)
    return {name: learned_state(item) for name, item in named.items() if has_learned(item)}


def _named_in(items: list[Any]) -> dict[str, Any]:
    """The estimators of a list of steps by their names: of a list of other things, nothing."""
    steps = (item for item in items if isinstance(item, tuple) and len(item) > 1)
    return {item[0]: item[1] for item in steps if isinstance(item[0], str)}


def has_learned(value: Any) -> bool:
    """Whether a value is an estimator that holds more than its parameters."""
    if isinstance(value, type) or not hasattr(value, "get_params"):
        return False
    parameters = value.get_params(deep=False)
    if attributes_learned(value):
        return True
    return any(_learned_inside(item) for item in parameters.values())


def restore(estimator: Any, state: dict[str, Any]) -> None:
    """Put a state that :func:`learned_state` returned on an estimator of the same class.

    Raises:
        ValueError: The state is not one that fitting can have returned.
    """
    parameters = estimator.get_params(deep=False)
    attributes = {}
    for name, value in state.items():
        if name not in parameters:
            _check_opaque(estimator, name, value)
            attributes[name] = unpack(value)
        else:
            _restore_inside(name, parameters[name], value)
    if attributes:
        _set(estimator, {_VERSION: sklearn_version} | attributes)


def _set(estimator: Any, attributes: dict[str, Any]) -> None:
    try:
        set_attributes(estimator, attributes)
    except ValueError as error:
        raise ValueError(
            f"the parts of the state do not fit together ({error}); send it as fit returned it"
        ) from error


def _is_opaque(estimator: Any) -> bool:
    """Whether only code of another package knows what an estimator's attributes mean."""
    package = type(estimator).__module__.partition(".")[0]
    return package in _OPAQUE or reads_own_state(estimator)


def _check_opaque(estimator: Any, name: str, value: Any) -> None:
    """Refuse what nobody can check, unless it came as a pickle, from who may send any."""
    pickled = isinstance(value, np.ndarray) and value.dtype == object
    if _is_opaque(estimator) and name != _VERSION and not pickled:
        raise ValueError(
            f"what a {type(estimator).__name__} learned travels as a pickle only, since nobody "
            f"can check {name}; allow pickles, or train it where it answers"
        )


def _restore_inside(name: str, parameter: Any, state: Any) -> None:
    if not isinstance(state, dict) or isinstance(parameter, type):
        raise _configures(name)
    if hasattr(parameter, "get_params"):
        restore(parameter, state)
        return
    if not isinstance(parameter, list):
        raise _configures(name)
    named = _named_in(parameter)
    for key, value in state.items():
        if _passes(named.get(key)):  # FeatureUnion puts an estimator in its place
            named[key] = FunctionTransformer(feature_names_out="one-to-one")
            parameter[[*named].index(key)] = (key, named[key])
        if not hasattr(named.get(key), "get_params"):
            raise _configures(f"{name}[{key!r}]")
        restore(named[key], value)


def _passes(step: Any) -> bool:
    return isinstance(step, str) and step == "passthrough"


def _configures(name: str) -> ValueError:
    return ValueError(
        f"the state sets {name}, which belongs to the configuration; "
        "send the state as fit returned it, and configure the filter when it is loaded"
    )


def classes_ahead(classes: Any) -> dict[str, Any]:
    """The state before the first batch, where all the classes are known."""
    return tagged(_CLASSES, classes=pack(classes))


def known_classes(state: Any) -> Any:
    """The classes in a state that :func:`classes_ahead` made; None in any other."""
    if not isinstance(state, dict) or state.get(TAG) != _CLASSES:
        return None
    return unpack(state["classes"])


def _carried(value: Any) -> Any:
    try:
        return pack(value)
    except NotPackable:
        return _in_one_piece(value) if isinstance(value, list | dict | tuple) else value


def _in_one_piece(value: Any) -> Any:
    """A container inside a 0-d array, so that one pickle carries it and its parts stay shared."""
    holder = np.empty((), dtype=object)
    holder[()] = value
    return holder
