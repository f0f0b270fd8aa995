"""Configuration: what a host may ask of estimators that may send no pickles.

An estimator is judged once it is made, by what it holds: its parameters, the estimators among them,
and what a search would set on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from soma_filters_sklearn.harmless import HARMLESS, SEARCHED, WITH_VALUES
from soma_filters_sklearn.holdings import parameters_held
from soma_filters_sklearn.parameters import check_parameters

__all__ = ["check_configuration", "check_parameters_of_state"]


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
        ValueError: One makes the estimator read files.
    """
    for name, value in parameters_held(estimator).items():
        if name in WITH_VALUES and name != "n_jobs":
            _check(type(estimator).__name__, name, value, set())


def _check(title: str, name: str, value: Any, foreign: set[str]) -> None:
    if name in SEARCHED:
        for set_name, candidates in _searched(value):
            for candidate in candidates:
                _check(f"{title}.{name}", set_name.rpartition("__")[2], candidate, foreign)
        return
    if name in WITH_VALUES:
        harmless, wanted = WITH_VALUES[name]
        if not harmless(value):
            raise ValueError(
                f"{title} sets {name}={value!r:.100}; from a host that may send no pickles it is "
                f"{wanted}"
            )
    elif name not in HARMLESS and name not in foreign and not _is_step(value):
        raise ValueError(
            f"{title} sets {name}, which nobody has found harmless (soma_filters_sklearn/"
            "harmless.py); a host that may send no pickles cannot set it"
        )


def _searched(value: Any) -> Iterator[tuple[str, Iterable[Any]]]:
    """The parameters that a search sets, and what it sets them to."""
    for space in value if isinstance(value, list | tuple) else [value]:
        for name, candidates in dict(space).items():
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
