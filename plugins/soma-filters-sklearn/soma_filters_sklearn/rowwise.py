"""Rowwise: whether an estimator's prediction for a row comes from that row alone."""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator
from sklearn.preprocessing import FunctionTransformer


def is_rowwise(estimator: Any, method: str) -> bool:
    """Whether it does: for ``predict`` of what scikit-learn itself brings, and is made of that.

    Other methods may return one array for each output, or sparse rows; a FunctionTransformer may
    do anything.
    """
    parts = [estimator, *estimator.get_params().values()]
    return method == "predict" and all(
        _is_of_sklearn(part)
        for part in parts
        if isinstance(part, BaseEstimator) or callable(getattr(part, "fit", None))
    )


def _is_of_sklearn(estimator: Any) -> bool:
    home = type(estimator).__module__.partition(".")[0]
    return home == "sklearn" and not isinstance(estimator, FunctionTransformer)
