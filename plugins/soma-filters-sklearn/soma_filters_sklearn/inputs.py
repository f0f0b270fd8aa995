"""Inputs: what a host sent, as what scikit-learn takes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from scipy.sparse import issparse


class Learning:
    """What to call ``fit`` or ``partial_fit`` with.

    Args:
        title: The filter's name, for errors.
        method: The method that will be called.
        x: The samples.
        y: The targets; or a dict that holds them as ``y``, and beside them what the method takes
            by name, such as ``sample_weight``.
        ignore: Which of those are not for this filter.

    Attributes:
        positional: The samples, and the targets where there are any.
        named: The rest.

    Raises:
        ValueError: Targets are missing, or something came that the method does not take.
    """

    def __init__(
        self, title: str, method: Callable[..., Any], x: Any, y: Any, ignore: Collection[str] = ()
    ) -> None:
        parameters = list(inspect.signature(method).parameters.values())
        y, named = _split(title, y)
        self.named = {name: as_array(value) for name, value in named.items() if name not in ignore}
        _check_names(title, method.__name__, parameters, self.named)
        if y is None and any(item.default is item.empty and _is_y(item) for item in parameters[1:]):
            raise ValueError(
                f"{title} requires y to be passed, but the target y is None: it learns from targets"
            )
        alone = y is None or not any(map(_is_y, parameters[1:]))
        self.positional = (x,) if alone else (x, as_array(y))


def _is_y(parameter: inspect.Parameter) -> bool:
    return parameter.name in ("y", "Y")


def _split(title: str, y: Any) -> tuple[Any, dict[str, Any]]:
    """The targets, and what came beside them."""
    if not isinstance(y, dict):
        return y, {}
    if "y" not in y:
        raise ValueError(
            f"targets of {title} that are a dict hold y, and beside it what fit takes by name, as "
            f"in {{'y': …, 'sample_weight': …}}; got {', '.join(map(repr, y)) or 'nothing'}"
        )
    return y["y"], {name: value for name, value in y.items() if name != "y"}


def _check_names(
    title: str, method: str, parameters: list[inspect.Parameter], named: dict[str, Any]
) -> None:
    if any(item.kind is item.VAR_KEYWORD for item in parameters):
        return
    taken = [item.name for item in parameters]
    for name in named:
        if name not in taken:
            raise ValueError(
                f"{title}.{method} takes no {name}, only {', '.join(taken)}; leave it out, or "
                f"configure {{'ignore': ['{name}']}} if it is for other filters of the chain"
            )


def takes_classes(method: Callable[..., Any]) -> bool:
    """Whether a ``partial_fit`` has to be told all the classes."""
    return "classes" in inspect.signature(method).parameters


def as_samples(title: str, estimator: Any, x: Any) -> Any:
    """Samples as scikit-learn takes them: a dict of columns is a table, a tensor an array.

    An estimator that takes dicts as samples is given them as they are.

    Raises:
        ValueError: The columns are no columns, or differ in length.
        ModuleNotFoundError: Columns came, and pandas is not installed.
    """
    if not isinstance(x, dict) or issparse(x) or _takes_dicts(estimator):
        return as_array(x)
    columns = {name: as_array(column) for name, column in x.items()}
    shapes = {name: np.shape(column) for name, column in columns.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        listed = ", ".join(f"{name!r}: {list(shape)}" for name, shape in shapes.items())
        raise ValueError(
            f"samples of {title} that are a dict are columns by name, all of one axis and equally "
            f"long; got {listed or 'no column'}"
        )
    return _pandas(title).DataFrame(columns)


def _pandas(title: str) -> Any:
    try:
        import pandas
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{title} was given columns by name, which need pandas where it runs: "
            "pip install pandas, or send an array"
        ) from None
    return pandas


def _takes_dicts(estimator: Any) -> bool:
    tags = getattr(estimator, "__sklearn_tags__", None)
    return tags is not None and bool(tags().input_tags.dict)


def as_array(value: Any) -> Any:
    """A torch tensor as an array; anything else as it is."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return value
    tensor = value.detach().cpu()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
