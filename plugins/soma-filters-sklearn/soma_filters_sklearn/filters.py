"""Filters: what every filter over a scikit-learn estimator does."""

from __future__ import annotations

import copy
import difflib
import inspect
import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import PrivateAttr, model_validator
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from soma_core import Filter, FilterKind, FilterMeta
from soma_filters_sklearn.parameters import Parameter, check_parameters
from soma_filters_sklearn.state import learned_state, restore

__all__ = ["IncrementalSklearnFilter", "SklearnFilter"]


class SklearnFilter(Filter):
    """A scikit-learn estimator as a filter; the subclasses are made by the factory.

    The fields are the estimator's parameters, checked by scikit-learn's own rules, and
    ``output``: the method that ``forward`` calls. ``"auto"`` is ``transform`` where there is
    one, else ``predict``.
    """

    estimator_class: ClassVar[Any]
    estimator_parameters: ClassVar[Mapping[str, Parameter]]

    output: str = "auto"
    _rebuilt: _Rebuilt = PrivateAttr(default_factory=lambda: _Rebuilt())

    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        """Fit a fresh estimator.

        Args:
            x: The samples: nested lists, an array, a torch tensor, a DataFrame, a list of texts.
            y: The targets; needed by estimators that predict.

        Returns:
            The fitted attributes by name, for ``forward``.

        Raises:
            ValueError: ``y`` is missing, or scikit-learn refuses the data.
        """
        estimator = self._new_estimator()
        estimator.fit(*self._arguments(estimator.fit, x, y))
        return self._learned(estimator)

    def forward(self, x: Any, state: Any) -> Any:
        """Transform or predict, as ``output`` says.

        Args:
            x: The samples.
            state: What ``fit`` or ``partial_fit`` returned.

        Raises:
            ValueError: The estimator needs to be fitted and the state is empty.
        """
        estimator = self._estimator(state)
        method = self._automatic(estimator) if self.output == "auto" else self.output
        return getattr(estimator, method)(_as_numpy(x))

    def meta(self) -> FilterMeta:
        """Trainable; not deterministic while ``random_state`` is None."""
        return FilterMeta(
            name=self._title(),
            kind=FilterKind.TRAINABLE,
            deterministic=getattr(self, "random_state", "not drawn") is not None,
        )

    @model_validator(mode="before")
    @classmethod
    def _read_config(cls, config: Any) -> Any:
        if not isinstance(config, dict):
            return config
        for name in config:
            if name not in cls.model_fields:
                raise ValueError(_unknown_parameter(cls._title(), name, list(cls.model_fields)))
        return {name: cls._normalized(name, value) for name, value in config.items()}

    @classmethod
    def _normalized(cls, name: str, value: Any) -> Any:
        parameter = cls.estimator_parameters.get(name)
        return value if parameter is None else parameter.normalize(value)

    @model_validator(mode="after")
    def _check_parameters(self) -> SklearnFilter:
        check_parameters(self._new_estimator())
        return self

    @classmethod
    def _title(cls) -> str:
        return f"sklearn.{cls.__name__}"

    def _new_estimator(self) -> Any:
        config = {
            name: parameter.resolve(getattr(self, name))
            for name, parameter in self.estimator_parameters.items()
        }
        return clone(self.estimator_class(**config))

    def _arguments(self, method: Callable[..., Any], x: Any, y: Any) -> tuple[Any, ...]:
        """What to call a method with: some need a target, and label encoders take none."""
        parameters = list(inspect.signature(method).parameters.values())
        if y is None and any(item.name == "y" for item in parameters[1:2] if _is_required(item)):
            raise ValueError(f"{self._title()} learns from targets: pass y beside the data")
        if y is None or len(parameters) == 1:
            return (_as_numpy(x),)
        return _as_numpy(x), _as_numpy(y)

    @staticmethod
    def _automatic(estimator: Any) -> str:
        return "transform" if hasattr(estimator, "transform") else "predict"

    def _learned(self, estimator: Any) -> dict[str, Any]:
        state = learned_state(estimator)
        self._rebuilt.keep(estimator, state, self._configuration())
        return state

    def _estimator(self, state: Any) -> Any:
        """The estimator of a state, from the last call if that had the same one."""
        known = self._rebuilt.recall(state, self._configuration())
        if known is not None:
            return known
        estimator = self._restored(state)
        self._rebuilt.keep(estimator, state, self._configuration())
        return estimator

    def _restored(self, state: Any) -> Any:
        if state is not None and not isinstance(state, dict):
            raise ValueError(
                f"a state of {self._title()} is a dict of fitted attributes, as fit returned it; "
                f"got {type(state).__name__}"
            )
        estimator = self._new_estimator()
        restore(estimator, state or {})
        try:
            check_is_fitted(estimator)
        except NotFittedError:
            raise ValueError(
                f"{self._title()} is not fitted: call fit first or send a state"
            ) from None
        return estimator

    def _configuration(self) -> tuple[Any, ...]:
        return tuple(self.__dict__.values())


class IncrementalSklearnFilter(SklearnFilter):
    """A filter over an estimator with ``partial_fit``, which BATCHED_FIT uses."""

    needs_classes: ClassVar[bool] = False

    def partial_fit(self, x: Any, y: Any = None, state: Any = None) -> dict[str, Any]:
        """Learn from one more batch.

        Args:
            x: The samples of the batch.
            y: Their targets, where the estimator learns from targets.
            state: What earlier batches left; empty for the first one. It is not changed.

        Returns:
            The state that has learned from this batch too.

        Raises:
            ValueError: A classifier meets its first batch and ``classes`` is not configured.
        """
        estimator = self._continued(state)
        arguments = self._arguments(estimator.partial_fit, x, y)
        estimator.partial_fit(*arguments, **self._classes(estimator))
        return self._learned(estimator)

    def _continued(self, state: Any) -> Any:
        """An estimator to go on with: a copy, since scikit-learn learns in place."""
        return copy.deepcopy(self._estimator(state)) if state else self._new_estimator()

    def _classes(self, estimator: Any) -> dict[str, Any]:
        classes = getattr(self, "classes", None) if self.needs_classes else None
        if self.needs_classes and classes is None and not hasattr(estimator, "classes_"):
            raise ValueError(
                f"{self._title()} must know every class before its first batch, which may not "
                "hold them all: configure classes, as in classes=[0, 1]"
            )
        return {} if classes is None else {"classes": classes}


class _Rebuilt:
    """The estimator that was rebuilt last, so that calls with one state rebuild it once.

    It is no part of what the filter is: copies and pickles start with an empty one, and two
    filters are equal whatever theirs hold.
    """

    def __init__(self) -> None:
        self._last: tuple[Any, Any, tuple[Any, ...]] | None = None

    def keep(self, estimator: Any, state: Any, configuration: tuple[Any, ...]) -> None:
        self._last = estimator, state, configuration

    def recall(self, state: Any, configuration: tuple[Any, ...]) -> Any:
        """The estimator, if state and configuration are the very objects it was built from."""
        if self._last is None:
            return None
        estimator, known_state, known = self._last
        if state is not known_state or len(known) != len(configuration):
            return None
        return estimator if all(map(operator.is_, known, configuration)) else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rebuilt)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return _Rebuilt, ()


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty


def _unknown_parameter(title: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{title} has no parameter {name!r}; {hint}it has {', '.join(known)}"


def _as_numpy(value: Any) -> Any:
    """A torch tensor as an array; anything else as it is."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return value
    tensor = value.detach().cpu()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
