"""Factory: makes the filter class of one scikit-learn estimator."""

from __future__ import annotations

import importlib
import inspect
import warnings
from typing import Any, Literal

from pydantic import create_model

from soma_filters_sklearn.filters import IncrementalSklearnFilter, SklearnFilter
from soma_filters_sklearn.parameters import parameters_of

__all__ = ["make_filter_class"]

_OUTPUTS = ("transform", "predict", "predict_proba", "decision_function")


def make_filter_class(name: str, home: str, module: str) -> type[SklearnFilter]:
    """The filter class of an estimator.

    Args:
        name: The estimator's name, which becomes the class's.
        home: The scikit-learn module that holds the estimator.
        module: The module that the class will be found in, by its name.

    Raises:
        AttributeError: The installed scikit-learn does not have the estimator.
    """
    estimator_class = _find(name, home)
    parameters = parameters_of(estimator_class)
    incremental = hasattr(estimator_class, "partial_fit")
    needs_classes = incremental and "classes" in _arguments(estimator_class.partial_fit)
    fields: dict[str, Any] = {
        parameter.name: (Any, parameter.plain_default) for parameter in parameters.values()
    }
    if needs_classes:
        fields["classes"] = (list[Any] | None, None)
    fields["output"] = (_output_type(estimator_class), "auto")
    base = IncrementalSklearnFilter if incremental else SklearnFilter
    made = _create(name, base, module, f"{home}.{name} as a filter.", fields)
    made.estimator_class = estimator_class
    made.estimator_parameters = parameters
    if issubclass(made, IncrementalSklearnFilter):
        made.needs_classes = needs_classes
    return made


def _find(name: str, home: str) -> Any:
    import sklearn

    try:
        return getattr(importlib.import_module(home), name)
    except (AttributeError, ModuleNotFoundError):
        raise AttributeError(
            f"the installed scikit-learn {sklearn.__version__} has no {home}.{name}"
        ) from None


def _arguments(method: Any) -> frozenset[str]:
    return frozenset(inspect.signature(method).parameters)


def _output_type(estimator_class: Any) -> Any:
    available = [method for method in _OUTPUTS if hasattr(estimator_class, method)]
    return Literal[("auto", *available)]


def _create(
    name: str, base: type[SklearnFilter], module: str, doc: str, fields: dict[str, Any]
) -> type[SklearnFilter]:
    with warnings.catch_warnings():
        # Parameters such as copy and validate hide deprecated methods of pydantic's BaseModel,
        # which nothing here calls.
        warnings.filterwarnings("ignore", message="Field name .* shadows an attribute in parent")
        return create_model(name, __base__=base, __module__=module, __doc__=doc, **fields)
