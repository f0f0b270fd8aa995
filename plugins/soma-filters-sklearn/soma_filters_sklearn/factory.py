"""Factory: makes the filter class of one scikit-learn estimator."""

from __future__ import annotations

import importlib
import warnings
from typing import Any, Literal

from pydantic import create_model

from soma_core import PluginUnavailable
from soma_filters_sklearn.filters import NamedFilter
from soma_filters_sklearn.inputs import takes_classes
from soma_filters_sklearn.outputs import outputs_of
from soma_filters_sklearn.parameters import parameters_of


def make_filter_class(name: str, home: str, module: str) -> type[NamedFilter]:
    """The filter class of an estimator.

    Raises:
        NotInThisRelease: The installed scikit-learn does not have the estimator.
    """
    estimator_class = _find(name, home)
    parameters = parameters_of(estimator_class)
    fields: dict[str, Any] = {
        parameter.name: (Any, ... if parameter.required else parameter.plain_default)
        for parameter in parameters.values()
    }
    if hasattr(estimator_class, "partial_fit") and takes_classes(estimator_class.partial_fit):
        fields["classes"] = (list[Any] | None, None)
    fields["output"] = (Literal[("auto", *outputs_of(estimator_class))], "auto")
    made = _create(name, module, f"{home}.{name} as a filter.", fields)
    made.estimator_class = estimator_class
    made.estimator_parameters = parameters
    return made


class NotInThisRelease(PluginUnavailable, AttributeError):
    """An estimator that another release of scikit-learn has."""


def _find(name: str, home: str) -> Any:
    import sklearn

    try:
        return getattr(importlib.import_module(home), name)
    except (AttributeError, ModuleNotFoundError):
        raise NotInThisRelease(
            f"the installed scikit-learn {sklearn.__version__} has no {home}.{name}"
        ) from None


def _create(name: str, module: str, doc: str, fields: dict[str, Any]) -> type[NamedFilter]:
    with warnings.catch_warnings():
        # Parameters such as copy and validate hide deprecated methods of pydantic's BaseModel,
        # which nothing here calls.
        warnings.filterwarnings("ignore", message="Field name .* shadows an attribute in parent")
        return create_model(name, __base__=NamedFilter, __module__=module, __doc__=doc, **fields)
