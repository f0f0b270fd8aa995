"""Adapting: estimators that Python made, as filters, and filters as estimators again."""

from __future__ import annotations

from typing import Any

from sklearn import get_config
from sklearn.base import clone

from soma_filters_sklearn import estimators
from soma_filters_sklearn.any_estimator import Estimator
from soma_filters_sklearn.classes import is_registered
from soma_filters_sklearn.filters import SklearnFilter
from soma_filters_sklearn.spelling import NotSpelled, spell_object
from soma_filters_sklearn.state import has_learned, learned_state


def as_filter(estimator: Any, **fields: Any) -> Any:
    """A filter over an estimator, for ``filters=`` of ``soma.connect``.

    Args:
        estimator: An estimator, a Pipeline or a ColumnTransformer. One that is fitted keeps what it
            learned: as the state that is used where a call gives none.
        fields: The other fields of the filter: ``output="predict_proba"``.

    Returns:
        ``(registered name, configuration)``, which travels without pickle, where all that
        configures the estimator can be written down; else a filter, which travels as a pickle.
    """
    if get_config()["enable_metadata_routing"]:
        fields = {"metadata_routing": True, **fields}
    if has_learned(estimator):
        return Estimator(estimator=clone(estimator), learned=learned_state(estimator), **fields)
    if _answers_in_frames(estimator):
        estimator, fields = _without_output(estimator), {"transform_output": "pandas", **fields}
    try:
        path, config = spell_object(estimator)
    except NotSpelled:
        return Estimator(estimator=estimator, **fields)
    if is_registered(path):
        return path, {**config, **fields}
    return "sklearn.Estimator", {"estimator": [path, config], **fields}


def as_nodes(pipeline: Any, **fields: Any) -> dict[str, Any]:
    """The steps of a Pipeline as filters by their names, to be run as a chain.

    Each node is fitted by ``fit`` and run by ``forward``. A step whose ``fit_transform`` learns or
    answers something else than ``fit`` and then ``transform`` (``TargetEncoder``) therefore gives
    another result than inside the Pipeline.

    Args:
        pipeline: The Pipeline.
        fields: Fields of the last filter.

    Raises:
        TypeError: It is no Pipeline.
    """
    steps = getattr(pipeline, "steps", None)
    if steps is None:
        raise TypeError(f"only a Pipeline has steps to be nodes; got {type(pipeline).__name__}")
    last = len(steps) - 1
    return {
        name: _as_node(step, fields if index == last else {"output": "transform"})
        for index, (name, step) in enumerate(steps)
    }


def state_of(estimator: Any) -> dict[str, Any]:
    """What a fitted estimator learned, as the state of its filter.

    Raises:
        ValueError: It has learned nothing.
    """
    if not has_learned(estimator):
        raise ValueError(f"this {type(estimator).__name__} is not fitted: it has no state")
    return learned_state(estimator)


def as_estimator(filter_like: Any, state: Any = None) -> Any:
    """The estimator of a filter, with what it learned.

    Args:
        filter_like: A filter, or ``(registered name, configuration)``.
        state: The state that ``fit`` returned; without one the estimator is not fitted.

    Raises:
        ValueError: The state is not one of this filter.
    """
    if isinstance(filter_like, tuple):
        name, config = filter_like
        filter_like = _class_of(name)(**config)
    return filter_like.estimator_with(state)


def without_defaults(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a registered filter that differ from their defaults."""
    known = _class_of(name).model_fields
    return {
        key: value
        for key, value in config.items()
        if known[key].is_required() or repr(value) != repr(known[key].get_default())
    }


def _as_node(step: Any, fields: dict[str, Any]) -> Any:
    passes = step is None or (isinstance(step, str) and step == "passthrough")
    return ("sklearn.FunctionTransformer", {}) if passes else as_filter(step, **fields)


def _class_of(name: str) -> type[SklearnFilter]:
    if name == "sklearn.Estimator":
        return Estimator
    found: type[SklearnFilter] = getattr(estimators, name.removeprefix("sklearn."))
    return found


def _inside(estimator: Any) -> list[Any]:
    """An estimator and all those in its parameters that can be told what to return.

    Pipelines are not among them: they pass it on to their steps and keep nothing themselves.
    """
    every = [estimator, *estimator.get_params().values()]
    told = [each for each in every if hasattr(each, "set_output") and not isinstance(each, type)]
    return [each for each in told if not hasattr(each, "steps")]


def _answers_in_frames(estimator: Any) -> bool:
    """Whether all of an estimator has been set to return DataFrames, by itself or by set_config."""
    usual = {"transform": get_config()["transform_output"]}
    set_to = [vars(each).get("_sklearn_output_config", usual) for each in _inside(estimator)]
    return bool(set_to) and all(each == {"transform": "pandas"} for each in set_to)


def _without_output(estimator: Any) -> Any:
    copied = clone(estimator)
    for each in _inside(copied):
        vars(each).pop("_sklearn_output_config", None)
    return copied
