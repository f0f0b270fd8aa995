"""Outputs: the methods of an estimator that ``forward`` may call, and what they return."""

from __future__ import annotations

from typing import Any

OUTPUTS = (
    "transform",
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "score_samples",
    "mahalanobis",
    "kneighbors",
    "inverse_transform",
)
"""What an estimator can be asked about any samples once it is fitted."""

TRANSDUCTIVE = ("fit_predict", "fit_transform")
"""What an estimator can only be asked about the samples that it learns from."""

_USUAL = ("transform", "predict")
_PREDICTS = frozenset({"classifier", "regressor"})


def outputs_of(estimator: Any) -> tuple[str, ...]:
    """The methods of an estimator, or of a class of them, that ``forward`` may call."""
    found = tuple(name for name in OUTPUTS if hasattr(estimator, name))
    return found or tuple(name for name in TRANSDUCTIVE if hasattr(estimator, name))


def automatic(estimator: Any) -> str:
    """The method that ``output="auto"`` stands for; an estimator's parameters may decide it.

    It is ``predict`` of a classifier or regressor, also of one that transforms; of others
    ``transform``, else ``predict``, else what the estimator has.
    """
    if predicts(estimator) and hasattr(estimator, "predict"):
        return "predict"
    usual = [name for name in _USUAL if hasattr(estimator, name)]
    if usual:
        return usual[0]
    unusual = () if any(hasattr(type(estimator), name) for name in _USUAL) else OUTPUTS
    found = [name for name in (*unusual, *TRANSDUCTIVE) if hasattr(estimator, name)]
    return found[0] if found else "predict"


def predicts(estimator: Any) -> bool:
    """Whether an estimator is a classifier or a regressor."""
    tags = getattr(estimator, "__sklearn_tags__", None)
    return tags is not None and tags().estimator_type in _PREDICTS


def named_columns(table: Any) -> dict[str, Any]:
    """The columns of a DataFrame by name, in types that travel without pickle.

    Columns of objects (texts, say) become lists.
    """
    arrays = {str(name): column.to_numpy() for name, column in table.items()}
    return {name: each.tolist() if each.dtype == object else each for name, each in arrays.items()}
