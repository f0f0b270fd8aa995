"""Metrics: what a chain is measured by: scorers of scikit-learn by name, and functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from soma_core.engine.training import tensors
from soma_core.errors import ErrorCode, ProtocolError

Metric = Callable[[Any, Any], float]
"""``metric(y, out)``: the targets and the outputs of all rows, tensors as arrays."""

_RESERVED = frozenset({"epoch", "epochs", "batch", "batches", "loss", "mean_loss", "lr"})
"""Names that the history and the reports of training use themselves."""


def build_metrics(named: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics that a command asks for.

    Args:
        named: By the name that the history has for it: the name of a scorer of scikit-learn, or
            a function ``metric(y, out) -> float``, as those of ``sklearn.metrics`` are called.

    Raises:
        ProtocolError: ``invalid_command``: there is no such scorer, or a name is taken.
    """
    return {name: _build(name, metric) for name, metric in named.items()}


def _build(name: str, metric: Any) -> Metric:
    if name in _RESERVED or name.startswith("validation_"):
        raise _refused(name, "the history of training uses this name itself; choose another")
    if callable(metric):
        function: Metric = metric
        return function
    if not isinstance(metric, str):
        raise _refused(
            name,
            f"expected the name of a scorer of scikit-learn, or a function of (y, out); got a "
            f"{type(metric).__name__}",
        )
    try:
        from sklearn.metrics import get_scorer
    except ImportError as error:
        raise _refused(
            name,
            f"{metric!r} is the name of a scorer of scikit-learn, which the worker lacks "
            f"({error}); install it there, or pass a function of (y, out)",
        ) from None
    try:
        scorer = get_scorer(metric)
    except (ValueError, KeyError) as error:
        raise _refused(name, str(error)) from None
    return partial(_score, scorer)


def _refused(name: str, message: str) -> ProtocolError:
    return ProtocolError(ErrorCode.INVALID_COMMAND, f"metrics: {name!r}: {message}")


def measure(metrics: Mapping[str, Metric], y: Any, out: Any) -> dict[str, float]:
    """The value of each metric.

    Raises:
        ProtocolError: ``filter_failed``: a metric raised, or gave no number.
    """
    y, out = tensors.to_arrays(y), tensors.to_arrays(out)
    return {name: _value(name, metric, y, out) for name, metric in metrics.items()}


def _value(name: str, metric: Metric, y: Any, out: Any) -> float:
    try:
        return float(metric(y, out))
    except Exception as error:  # the user's code, or a scorer that does not fit the outputs
        raise ProtocolError(
            ErrorCode.FILTER_FAILED,
            f"the metric {name!r} failed on targets {_shown(y)} and outputs {_shown(out)}: {error}",
            remote_type=type(error).__name__,
        ) from error


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"of shape {list(value.shape)} and type {value.dtype}"
    return f"of type {type(value).__name__}"


def _score(scorer: Any, y: Any, out: Any) -> float:
    y, out = _flat(np.asarray(y)), _flat(np.asarray(out))
    return float(scorer(_estimator(y, out), out, y))


def _flat(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One column as a plain list of values."""
    return values[:, 0] if values.shape[1:] == (1,) else values


def _estimator(y: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> Any:
    """What a scorer may ask: an estimator that has predicted these outputs.

    Floating outputs of several columns for targets that are classes 0, 1, … are the scores of
    those classes; the prediction is the highest.
    """
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    class Predicted(BaseEstimator):  # type: ignore[misc]
        def predict(self, x: Any) -> Any:
            return x

    class Regressor(RegressorMixin, Predicted):  # type: ignore[misc]
        pass

    class Classifier(ClassifierMixin, Predicted):  # type: ignore[misc]
        classes_: Any = None

    class Scores(Classifier):
        def predict(self, x: Any) -> Any:
            return x.argmax(axis=1)

        def predict_proba(self, x: Any) -> Any:
            return _probabilities(x)

    floating = out.dtype.kind == "f"
    if y.dtype.kind == "f" or y.ndim != 1:
        return Regressor()
    found = (Scores if floating and out.ndim == 2 else Classifier)()
    found.classes_ = np.arange(out.shape[1]) if out.ndim == 2 else np.unique(y)
    return found


def _probabilities(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Rows that are probabilities as they are, others after softmax."""
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1.0, atol=1e-4):
        return scores
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
