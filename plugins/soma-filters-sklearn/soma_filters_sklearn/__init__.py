"""soma_filters_sklearn: scikit-learn's estimators as soma filters, each under its own name.

Nothing is imported from scikit-learn until it is needed: until a filter class is asked for, as in
``soma_filters_sklearn.estimators.StandardScaler``, or one of the functions below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soma_filters_sklearn.adapting import as_estimator, as_filter, as_nodes, state_of

__all__ = ["as_estimator", "as_filter", "as_nodes", "state_of"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from soma_filters_sklearn import adapting

    return getattr(adapting, name)
