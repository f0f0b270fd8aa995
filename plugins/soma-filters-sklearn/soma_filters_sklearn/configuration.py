"""Configuration: what a host may ask of estimators that may send no pickles.

An estimator is judged once it is made, by what it holds: its parameters, the estimators among them,
and what a search would set on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from soma_filters_sklearn.harmless import (
    HARMLESS,
    HARMLESS_IN_STATES,
    PASSED_ON,
    SEARCHED,
    WITH_VALUES,
)
from soma_filters_sklearn.holdings import parameters_held
from soma_filters_sklearn.parameters import check_parameters

Rules = Mapping[str, tuple[Callable[[Any], bool], str]]


def check_configuration(estimator: Any) -> None:
    """Check every parameter of an estimator, of those inside, and of what a search sets.

    Raises:
        ValueError: One is not known to be harmless; the message names it.
    """
    every = [estimator, *_estimators_in(parameters_held(estimator).values())]
    foreign = {name for each in every if _is_foreign(each) for name in parameters_held(each)}
    for each in every:
        if _is_foreign(each):
            continue  # whoever runs the worker allowed its module
        check_parameters(each)
        for name, value in parameters_held(each).items():
            _check(type(each).__name__, name, value, foreign)


def check_parameters_of_state(estimator: Any) -> None:
    """Check the parameters of an estimator that a state holds, whoever sent the state.

    Raises:
        ValueError: One makes the estimator read files, or start processes without end.
    """
    for name, value in parameters_held(estimator).items():
        _check_value(type(estimator).__name__, name, value, HARMLESS_IN_STATES)


def _check(title: str, name: str, value: Any, foreign: set[str]) -> None:
    if name in SEARCHED:
        for set_name, candidates in _searched(value):
            for candidate in candidates:
                _check(f"{title}.{name}", set_name.rpartition("__")[2], candidate, foreign)
        return
    _check_value(title, name, value, WITH_VALUES)
    known = name in HARMLESS or name in WITH_VALUES or name in foreign
    if not known and not _is_step(value):
        raise ValueError(
            f"{title} sets {name}, which nobody has found harmless (soma_filters_sklearn/"
            "harmless.py); a host that may send no pickles cannot set it"
        )


def _check_value(title: str, name: str, value: Any, rules: Rules) -> None:
    """Check a parameter of which some values are harmless, or arguments that are passed on."""
    if name in rules:
        harmless, wanted = rules[name]
        if not harmless(value):
            raise ValueError(
                f"{title} sets {name}={value!r:.100}; from a host that may send no pickles it is "
                f"{wanted}"
            )
    for arguments in _passed_on(name, value):
        for argument in arguments.keys() & rules.keys():
            _check_value(f"{title}.{name}", argument, arguments[argument], rules)


def _passed_on(name: str, value: Any) -> Iterator[dict[str, Any]]:
    """The arguments that a parameter has passed on to a function, such as a scorer's."""
    if isinstance(value, dict) and name in PASSED_ON:
        yield value
    elif isinstance(value, dict | list | tuple) and name == "scoring":
        for each in value.values() if isinstance(value, dict) else value:
            yield from _passed_on(name, each)
    elif name == "scoring":
        yield getattr(value, "_kwargs", {})


def _searched(value: Any) -> Iterator[tuple[str, Iterable[Any]]]:
    """The parameters that a search sets, and what it sets them to."""
    for space in value if isinstance(value, list | tuple) else [value]:
        for name, candidates in dict(space).items():
            if isinstance(candidates, range):  # numbers alone, of which those at the ends say all
                yield name, [*candidates[:1], *candidates[-1:]]
            else:
                yield name, [candidates] if hasattr(candidates, "rvs") else list(candidates)


def _is_step(value: Any) -> bool:
    """Whether a search replaces a whole step, which has a name of its own."""
    if isinstance(value, str):
        return value in ("passthrough", "drop")
    return value is None or hasattr(value, "get_params")


def _is_foreign(estimator: Any) -> bool:
    return type(estimator).__module__.partition(".")[0] != "sklearn"


def _estimators_in(values: Iterable[Any]) -> Iterator[Any]:
    """The estimators, kernels and splitters in some values, however deep."""
    for value in values:
        if isinstance(value, dict):
            yield from _estimators_in(value.values())
        elif isinstance(value, list | tuple):
            yield from _estimators_in(value)
        elif isinstance(value, np.ndarray) and value.dtype == object:
            yield from _estimators_in(value.ravel().tolist())
        elif hasattr(value, "get_params") and not isinstance(value, type):
            yield value
            yield from _estimators_in(parameters_held(value).values())
