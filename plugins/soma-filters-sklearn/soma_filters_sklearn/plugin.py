"""Plugin: wraps estimators that are handed to ``filters=``, and makes handles of their nodes."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from typing import Any

import soma_core as soma
from soma_core.codecs import Codec, Encoded

SOMA_API_VERSION = 1
_SPARSE = [
    f"{format_}_{kind}"
    for format_ in ("bsr", "coo", "csc", "csr", "dia", "dok", "lil")
    for kind in ("array", "matrix")
]


@soma.hookimpl
def soma_adapt(obj: Any) -> Any:
    """A filter over an estimator, a Pipeline or a ColumnTransformer; None for anything else."""
    if "sklearn" not in sys.modules:  # whoever has an estimator has imported it
        return None
    if not all(callable(getattr(obj, name, None)) for name in ("get_params", "set_params", "fit")):
        return None
    from soma_filters_sklearn.adapting import as_filter

    return as_filter(obj)


@soma.hookimpl
def soma_preloaded() -> None:
    """Make the filters of all estimators, which ``import sklearn`` does not import, and fit one."""
    if "sklearn" not in sys.modules:
        return
    from sklearn.preprocessing import StandardScaler

    from soma_filters_sklearn import estimators

    for name in dir(estimators):
        with suppress(AttributeError):  # another scikit-learn may lack one
            getattr(estimators, name).model_rebuild()
    StandardScaler().fit([[0.0], [1.0]])  # the first to be fitted looks for plugins of narwhals


@soma.hookimpl
def soma_remote_filter(worker: Any, node_id: str, meta: soma.FilterMeta) -> Any:
    """The node as an estimator, where it is one of this plugin's."""
    if not meta.name.startswith(("sklearn.", "the estimator ")):
        return None
    from soma_filters_sklearn.remote import remote_estimator

    return remote_estimator(worker, node_id)


@soma.hookimpl
def soma_register_codecs() -> list[Codec]:
    """Let sparse matrices and arrays of scipy travel as their arrays."""
    return [
        Codec(
            f"scipy.sparse.{kind}",
            f"scipy.sparse:{kind}",
            _encode_sparse,
            partial(_decode_sparse, kind),
            "soma-filters-sklearn",
        )
        for kind in _SPARSE
    ]


def _encode_sparse(matrix: Any) -> Encoded:
    from soma_filters_sklearn import sparse_codecs

    return sparse_codecs.encode(matrix)


def _decode_sparse(kind: str, data: Any, buffers: list[Any]) -> Any:
    from soma_filters_sklearn import sparse_codecs

    return sparse_codecs.decode(kind, data)
