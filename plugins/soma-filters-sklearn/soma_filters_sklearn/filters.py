"""Filters: what every filter over a scikit-learn estimator does."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr, model_validator
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import check_is_fitted

from soma_core import Filter, FilterKind, FilterMeta
from soma_core.configuration import are_imports_limited
from soma_filters_sklearn.configuration import check_configuration
from soma_filters_sklearn.inputs import Learning, as_array, as_samples, takes_classes
from soma_filters_sklearn.outputs import TRANSDUCTIVE, automatic, named_columns, outputs_of
from soma_filters_sklearn.parameters import Parameter, check_parameters
from soma_filters_sklearn.rowwise import is_rowwise
from soma_filters_sklearn.spelling import plain, resolve, unknown_name
from soma_filters_sklearn.state import (
    classes_ahead,
    has_learned,
    known_classes,
    learned_state,
    restore,
)

_AS_IT_IS = nullcontext()


class _Answering:
    """A method of a filter that calls the estimator's of the same name, where it has one.

    ``predict(x, state=None)``; ``score(x, y=None, state=None)``.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, node: SklearnFilter | None, owner: type) -> Any:
        if node is None:
            return self
        if not node._offers(self._name):
            raise AttributeError(f"{node._title()} has no {self._name}")
        return node._score if self._name == "score" else partial(node._answer, self._name)


class SklearnFilter(Filter):
    """A scikit-learn estimator as a filter.

    Attributes:
        output: The method that ``forward`` calls. ``"auto"`` is ``predict`` of a classifier or
            regressor, else ``transform`` where there is one, else what the estimator has.
        transform_output: What ``transform`` returns: an array, a DataFrame (``"pandas"``), or a
            dict of columns by name (``"columns"``), which travels without pickle.
        metadata_routing: Whether scikit-learn passes on what comes beside targets as estimators ask
            for it (``set_fit_request``).
        ignore: What may come beside targets and is not for this filter, such as
            ``["sample_weight"]``.
        learned: A state that is used where a call gives none.
    """

    output: str = "auto"
    transform_output: Literal["default", "pandas", "columns"] = "default"
    metadata_routing: bool = False
    ignore: list[str] = Field(default_factory=list)
    learned: dict[str, Any] | None = None
    _rebuilt: _Rebuilt = PrivateAttr(default_factory=lambda: _Rebuilt())

    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        """Fit a fresh estimator.

        Args:
            x: The samples: nested lists, an array, a torch tensor, a DataFrame, a dict of columns,
                a list of texts.
            y: The targets; needed by estimators that predict. A dict holds them as ``y``, and
                beside them what the estimator's ``fit`` takes by name, such as ``sample_weight``.

        Returns:
            The fitted attributes by name, for ``forward``. An estimator that can only answer for
            the samples that it learns from, such as DBSCAN, learns anew in ``forward``.

        Raises:
            ValueError: ``y`` is missing, something came that ``fit`` does not take, or scikit-learn
                refuses the data.
        """
        estimator = self._fresh()
        learning = self._learning(estimator, estimator.fit, x, y)
        with self._configured():
            estimator.fit(*learning.positional, **learning.named)
        return self._learned(estimator)

    @property
    def partial_fit(self) -> Callable[..., dict[str, Any]]:
        """``partial_fit(x, y=None, state=None) -> state`` learns from one more batch.

        It takes what ``fit`` takes, and the state that earlier batches left, which it does not
        change; an empty one for the first batch, or what ``initial_state`` returned.

        Raises:
            AttributeError: The estimator cannot learn in batches.
            ValueError: When called: a classifier meets its first batch and does not know all the
                classes; or what ``fit`` raises.
        """
        if not hasattr(self._new_estimator(), "partial_fit"):
            raise AttributeError(f"{self._title()} has no partial_fit: it learns from all the data")
        return self._learn_batch

    def initial_state(self, y: Any) -> dict[str, Any]:
        """What ``partial_fit`` starts from, where the targets of all batches are known.

        Args:
            y: Those targets, as ``fit`` takes them.

        Returns:
            The classes, for an estimator that must know them all before its first batch.
        """
        estimator = self._new_estimator()
        method = getattr(estimator, "partial_fit", None)
        targets = y.get("y") if isinstance(y, dict) else y
        configured = getattr(self, "classes", None) is not None
        if targets is None or method is None or configured or not takes_classes(method):
            return {}
        return classes_ahead(_classes_in(estimator, as_array(targets)))

    def forward(self, x: Any, state: Any) -> Any:
        """Call the method that ``output`` names.

        Args:
            x: The samples.
            state: What ``fit`` or ``partial_fit`` returned.

        Raises:
            ValueError: The estimator needs to be fitted and there is no state.
        """
        estimator = self._estimator(state or self.learned)
        return self._answer(self._method(estimator), x, state)

    decision_function: ClassVar[Any] = _Answering()
    inverse_transform: ClassVar[Any] = _Answering()
    predict: ClassVar[Any] = _Answering()
    predict_log_proba: ClassVar[Any] = _Answering()
    predict_proba: ClassVar[Any] = _Answering()
    score: ClassVar[Any] = _Answering()
    score_samples: ClassVar[Any] = _Answering()
    transform: ClassVar[Any] = _Answering()

    def meta(self) -> FilterMeta:
        """Trainable; not deterministic while a ``random_state`` in it is None."""
        estimator = self._new_estimator()
        drawn = [
            value
            for name, value in estimator.get_params().items()
            if name.rpartition("__")[2] == "random_state"
        ]
        method = self._method(estimator)
        learns = method not in TRANSDUCTIVE
        return FilterMeta(
            name=self._title(),
            kind=FilterKind.TRAINABLE if learns else FilterKind.STATELESS,
            deterministic=None not in drawn,
            rowwise=is_rowwise(estimator, method),
        )

    def estimator_with(self, state: Any = None) -> Any:
        """The estimator itself, a new one each time.

        Args:
            state: What it has learned; without one it is not fitted.

        Raises:
            ValueError: The state is not one of this filter.
        """
        return copy.deepcopy(self._estimator(state)) if state else self._fresh()

    def config_hash(self) -> str:
        try:
            return super().config_hash()
        except TypeError as error:
            raise TypeError(
                f"{self._title()} is configured with an object that has no plain spelling: {error}"
            ) from None

    def _new_estimator(self) -> Any:
        """An estimator that has learned nothing."""
        raise NotImplementedError

    def _title(self) -> str:
        """What errors call the estimator."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _check(self) -> SklearnFilter:
        estimator = self._new_estimator()
        check_parameters(estimator)
        if are_imports_limited():
            check_configuration(estimator)
        if self.output not in ("auto", *outputs_of(estimator), *outputs_of(type(estimator))):
            known = ", ".join(outputs_of(type(estimator)))
            raise ValueError(f"{self._title()} has no {self.output}; output is auto or {known}")
        if self.transform_output != "default":
            self._named(estimator)
        return self

    def _named(self, estimator: Any) -> Any:
        if not hasattr(estimator, "set_output"):
            raise ValueError(
                f"transform_output={self.transform_output!r}: {self._title()} does not name its "
                "outputs; leave it 'default'"
            )
        return estimator.set_output(transform="pandas")

    def _fresh(self) -> Any:
        estimator = self._new_estimator()
        return estimator if self.transform_output == "default" else self._named(estimator)

    def _method(self, estimator: Any) -> str:
        return automatic(estimator) if self.output == "auto" else self.output

    def _offers(self, method: str) -> bool:
        """Whether the estimator has a method, or may have it once it is fitted."""
        estimator = self._new_estimator()
        return hasattr(estimator, method) or hasattr(type(estimator), method)

    def _learning(self, estimator: Any, method: Callable[..., Any], x: Any, y: Any) -> Learning:
        samples = as_samples(self._title(), estimator, x)
        return Learning(self._title(), method, samples, y, self.ignore)

    def _answer(self, method: str, x: Any, state: Any = None) -> Any:
        anew = method in TRANSDUCTIVE
        estimator = self._fresh() if anew else self._estimator(state or self.learned)
        with self._configured(), self._of_another_filter(estimator):
            out = getattr(estimator, method)(as_samples(self._title(), estimator, x))
        if self.transform_output != "columns" or not hasattr(out, "columns"):
            return out
        return named_columns(out)

    def _score(self, x: Any, y: Any = None, state: Any = None) -> Any:
        estimator = self._estimator(state or self.learned)
        judged = self._learning(estimator, estimator.score, x, y)
        with self._configured(), self._of_another_filter(estimator):
            return estimator.score(*judged.positional, **judged.named)

    def _configured(self) -> AbstractContextManager[None]:
        """Within the block, scikit-learn is configured as the filter has it."""
        return config_context(enable_metadata_routing=True) if self.metadata_routing else _AS_IT_IS

    @contextmanager
    def _of_another_filter(self, estimator: Any) -> Iterator[None]:
        """Within the block, an attribute that ``fit`` learns and the state lacks is named.

        Raises:
            ValueError: There is one: nothing was learned, or the state may be of another filter.
        """
        try:
            yield
        except AttributeError as error:
            if not _is_of_sklearn(estimator) and not has_learned(estimator):
                raise self._not_fitted() from error
            lacks = error.name or ""
            if error.obj is not estimator or not lacks.endswith("_"):
                raise
            held = ", ".join(name for name in vars(estimator) if name.endswith("_"))
            raise ValueError(
                f"the state of {self._title()} has no {lacks}, which fit learns; it has "
                f"{held}: is it the state of another filter?"
            ) from error

    def _learn_batch(self, x: Any, y: Any = None, state: Any = None) -> dict[str, Any]:
        estimator, ahead = self._continued(state)
        learning = self._learning(estimator, estimator.partial_fit, x, y)
        classes = {} if "classes" in learning.named else self._classes(estimator, ahead)
        named = {**classes, **learning.named}
        with self._configured():
            estimator.partial_fit(*learning.positional, **named)
        return self._learned(estimator)

    def _continued(self, state: Any) -> tuple[Any, Any]:
        """An estimator to go on with, a copy since it learns in place; and the classes ahead."""
        ahead = known_classes(state)
        known = self.learned if ahead is not None else state or self.learned
        return copy.deepcopy(self._estimator(known)) if known else self._fresh(), ahead

    def _classes(self, estimator: Any, ahead: Any) -> dict[str, Any]:
        if not takes_classes(estimator.partial_fit):
            return {}
        configured = getattr(self, "classes", None)
        if configured is not None:
            return {"classes": configured}
        if ahead is not None:
            return {"classes": ahead}
        if has_learned(estimator):
            return {}
        raise ValueError(
            f"{self._title()} must know every class before its first batch, which may not "
            "hold them all: configure classes, as in classes=[0, 1]"
        )

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
        estimator = self._fresh()
        if known_classes(state) is None:
            restore(estimator, state or {})
        if self._method(estimator) in TRANSDUCTIVE or not _is_of_sklearn(estimator):
            return estimator  # others may learn under any name, or nothing
        try:
            check_is_fitted(estimator)
        except NotFittedError:
            if not state:
                raise self._not_fitted() from None
            raise ValueError(
                f"{self._title()} is not fitted by this state, which holds "
                f"{', '.join(map(str, state))}; send the state that fit returned"
            ) from None
        return estimator

    def _not_fitted(self) -> ValueError:
        return ValueError(f"{self._title()} is not fitted: call fit first or send a state")

    def _configuration(self) -> tuple[Any, ...]:
        return tuple(self.__dict__.values())


class NamedFilter(SklearnFilter):
    """An estimator of scikit-learn, whose parameters are the fields; made by the factory."""

    estimator_class: ClassVar[Any]
    estimator_parameters: ClassVar[Mapping[str, Parameter]]

    @model_validator(mode="before")
    @classmethod
    def _read_config(cls, config: Any) -> Any:
        if not isinstance(config, dict):
            return config
        for name in config:
            if name not in cls.model_fields:
                title = f"sklearn.{cls.__name__}"
                raise ValueError(unknown_name(title, name, cls.model_fields))
        return {name: cls._normalized(name, value) for name, value in config.items()}

    @classmethod
    def _normalized(cls, name: str, value: Any) -> Any:
        parameter = cls.estimator_parameters.get(name)
        return value if parameter is None else parameter.normalize(plain(value, parameter))

    def _title(self) -> str:
        return f"sklearn.{type(self).__name__}"

    def _new_estimator(self) -> Any:
        config = {
            name: resolve(parameter, getattr(self, name))
            for name, parameter in self.estimator_parameters.items()
            if name in self.model_fields_set  # else the default, which may have no plain spelling
        }
        return self.estimator_class(**config)


def _is_of_sklearn(estimator: Any) -> bool:
    """Whether what it learns ends with an underscore for certain, and its methods rely on that."""
    return type(estimator).__module__.partition(".")[0] == "sklearn"


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


def _classes_in(estimator: Any, targets: Any) -> Any:
    """All the classes in some targets: an array, or one for each column that has its own."""
    columns = np.asarray(targets)
    if columns.ndim != 2 or columns.shape[1] == 1 or _learns_labels(estimator):
        return unique_labels(targets)
    return [np.unique(column) for column in columns.T]


def _learns_labels(estimator: Any) -> bool:
    """Whether columns of targets are labels that a sample has or has not."""
    tags = getattr(estimator, "__sklearn_tags__", None)
    classifier = None if tags is None else tags().classifier_tags
    return classifier is not None and bool(classifier.multi_label)
