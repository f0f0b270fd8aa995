"""Estimators: one filter class per scikit-learn estimator, made when it is first asked for.

``soma_filters_sklearn.estimators.StandardScaler`` is the filter ``sklearn.StandardScaler``. A
class lives on in this module under its name, so that pickles refer to it by that name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from soma_filters_sklearn.catalogue import HOMES

if TYPE_CHECKING:
    from soma_filters_sklearn.filters import SklearnFilter


def __getattr__(name: str) -> type[SklearnFilter]:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from soma_filters_sklearn.factory import make_filter_class

    made: type[SklearnFilter] = globals().setdefault(
        name, make_filter_class(name, HOMES[name], __name__)
    )
    return made


def __dir__() -> list[str]:
    return sorted(HOMES)
