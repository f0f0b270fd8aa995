"""Plugin: takes part in soma by wrapping estimators that are handed to ``filters=``."""

from __future__ import annotations

import sys
from typing import Any

import soma_core as soma

__all__ = ["SOMA_API_VERSION", "soma_adapt"]

SOMA_API_VERSION = 1


@soma.hookimpl
def soma_adapt(obj: Any) -> Any:
    """A filter over an estimator, a Pipeline or a ColumnTransformer; None for anything else."""
    if "sklearn" not in sys.modules:  # whoever has an estimator has imported it
        return None
    if not all(callable(getattr(obj, name, None)) for name in ("get_params", "set_params", "fit")):
        return None
    from soma_filters_sklearn.adapting import as_filter

    return as_filter(obj)
