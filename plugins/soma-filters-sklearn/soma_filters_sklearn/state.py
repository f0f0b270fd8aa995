"""State: what fitting left on an estimator, as data that travels without pickle where it can.

Numbers, text, arrays, lists and string-keyed dicts stand for themselves. What the wire would
change or could only pickle, and what is still plain data at heart, is spelled as a dict with
the key ``$sklearn``: tuples, numpy scalars, arrays of text, arrays in Fortran order, sparse
matrices, dtypes, random generators, nested estimators. An attribute that holds anything else
(a tree, a KD-tree) is left as it is, for the wire to pickle or to refuse.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse
from sklearn import __version__ as sklearn_version
from sklearn.base import BaseEstimator

from soma_filters_sklearn.catalogue import MODULES

__all__ = ["learned_state", "restore"]

_TAG = "$sklearn"
_VERSION = "_sklearn_version"
_SPARSE_FORMATS = frozenset({"csr", "csc"})
_HOMES = {name: module for module, names in MODULES.items() for name in names}


class _NotPlain(Exception):
    """A value that cannot be spelled as plain data."""


def learned_state(estimator: Any) -> dict[str, Any]:
    """Everything that an estimator holds beside its parameters, by attribute name.

    It includes ``_sklearn_version``, so that a state learned by another release is noticed.
    """
    parameters = estimator.get_params(deep=False)
    attributes = estimator.__getstate__().items()
    return {name: _carried(value) for name, value in attributes if name not in parameters}


def restore(estimator: Any, state: dict[str, Any]) -> None:
    """Put a state that :func:`learned_state` returned on an estimator of the same class.

    Raises:
        ValueError: The state is not one that fitting can have returned.
    """
    configured = state.keys() & estimator.get_params(deep=False).keys()
    if configured:
        names = ", ".join(sorted(configured))
        raise ValueError(
            f"the state sets {names}, which belongs to the configuration; "
            "send the state as fit returned it, and configure the filter when it is loaded"
        )
    attributes = {name: _unpack(value) for name, value in state.items()}
    if attributes:
        estimator.__setstate__({_VERSION: sklearn_version} | attributes)


def _carried(value: Any) -> Any:
    try:
        return _pack(value)
    except _NotPlain:
        return _in_one_piece(value) if isinstance(value, list | dict | tuple) else value


def _in_one_piece(value: Any) -> Any:
    """A container inside a 0-d array, so that one pickle carries it and its parts stay shared."""
    holder = np.empty((), dtype=object)
    holder[()] = value
    return holder


def _pack(value: Any) -> Any:
    packer = _PACKERS.get(type(value))
    if packer is not None:
        return packer(value)
    for kind, packer in _PACKERS_OF_FAMILIES:
        if isinstance(value, kind):
            return packer(value)
    raise _NotPlain


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(item) for item in value]
    if isinstance(value, dict):
        return _unpack_dict(value)
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 0:
        return value.item()
    return value


def _unpack_dict(value: dict[str, Any]) -> Any:
    if _TAG not in value:
        return {key: _unpack(item) for key, item in value.items()}
    try:
        return _UNPACKERS[value[_TAG]](value)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the state holds a {value[_TAG]!r} that is not well formed ({error!r}); "
            "send the state as fit returned it"
        ) from error


def _tagged(tag: str, **content: Any) -> dict[str, Any]:
    return {_TAG: tag, **content}


def _as_it_is(value: Any) -> Any:
    return value


def _pack_list(value: list[Any]) -> list[Any]:
    return [_pack(item) for item in value]


def _pack_tuple(value: tuple[Any, ...]) -> dict[str, Any]:
    return _tagged("tuple", items=[_pack(item) for item in value])


def _unpack_tuple(value: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(_unpack(item) for item in value["items"])


def _pack_dict(value: dict[Any, Any]) -> dict[str, Any]:
    if all(type(key) is str for key in value) and _TAG not in value:
        return {key: _pack(item) for key, item in value.items()}
    return _tagged("dict", items=[[_pack(key), _pack(item)] for key, item in value.items()])


def _unpack_items(value: dict[str, Any]) -> dict[Any, Any]:
    return {_unpack(key): _unpack(item) for key, item in value["items"]}


def _pack_array(value: np.ndarray[Any, Any]) -> Any:
    if value.dtype == object:
        return _tagged("objects", shape=list(value.shape), items=_pack_list(value.ravel().tolist()))
    if value.dtype.hasobject or value.dtype.kind == "T":
        raise _NotPlain
    if value.flags.f_contiguous and not value.flags.c_contiguous:
        return _tagged("fortran", transposed=value.T)
    return value


def _unpack_objects(value: dict[str, Any]) -> Any:
    array = np.empty(tuple(value["shape"]), dtype=object)
    for index, item in enumerate(value["items"]):
        array.flat[index] = _unpack(item)
    return array


def _unpack_fortran(value: dict[str, Any]) -> Any:
    return value["transposed"].T


def _pack_scalar(value: np.generic) -> dict[str, Any]:
    if value.dtype.hasobject:
        raise _NotPlain
    return _tagged("scalar", array=np.asarray(value))


def _unpack_scalar(value: dict[str, Any]) -> Any:
    return value["array"][()]


def _pack_dtype(value: np.dtype[Any]) -> dict[str, Any]:
    if value.fields is not None:
        raise _NotPlain
    return _tagged("dtype", name=value.str)


def _unpack_dtype(value: dict[str, Any]) -> Any:
    return np.dtype(value["name"])


def _pack_type(value: type) -> dict[str, Any]:
    if not issubclass(value, np.generic):
        raise _NotPlain
    return _tagged("type", name=np.dtype(value).name)


def _unpack_type(value: dict[str, Any]) -> Any:
    return np.dtype(value["name"]).type


def _pack_sparse(value: Any) -> dict[str, Any]:
    if value.format not in _SPARSE_FORMATS:
        raise _NotPlain
    return _tagged(
        "sparse",
        format=value.format,
        array=isinstance(value, sparse.sparray),
        shape=list(value.shape),
        data=value.data,
        indices=value.indices,
        indptr=value.indptr,
    )


def _unpack_sparse(value: dict[str, Any]) -> Any:
    if value["format"] not in _SPARSE_FORMATS:
        raise ValueError(f"the format is one of {', '.join(sorted(_SPARSE_FORMATS))}")
    make = getattr(sparse, f"{value['format']}_{'array' if value['array'] else 'matrix'}")
    return make((value["data"], value["indices"], value["indptr"]), shape=tuple(value["shape"]))


def _pack_random_state(value: np.random.RandomState) -> dict[str, Any]:
    return _tagged("random_state", state=_pack(value.get_state(legacy=False)))


def _unpack_random_state(value: dict[str, Any]) -> np.random.RandomState:
    generator = np.random.RandomState()
    generator.set_state(_unpack(value["state"]))
    return generator


def _pack_estimator(value: BaseEstimator) -> dict[str, Any]:
    name = type(value).__name__
    if name not in _HOMES or _estimator_class(name) is not type(value):
        raise _NotPlain
    attributes = value.__getstate__()
    return _tagged(
        "estimator", name=name, attributes={key: _pack(item) for key, item in attributes.items()}
    )


def _unpack_estimator(value: dict[str, Any]) -> Any:
    estimator_class = _estimator_class(value["name"])
    estimator = estimator_class.__new__(estimator_class)
    estimator.__setstate__({key: _unpack(item) for key, item in value["attributes"].items()})
    return estimator


def _estimator_class(name: str) -> Any:
    return getattr(importlib.import_module(_HOMES[name]), name)


_PACKERS: dict[type, Callable[[Any], Any]] = {
    type(None): _as_it_is,
    bool: _as_it_is,
    int: _as_it_is,
    float: _as_it_is,
    str: _as_it_is,
    bytes: _as_it_is,
    list: _pack_list,
    tuple: _pack_tuple,
    dict: _pack_dict,
    np.ndarray: _pack_array,
    type: _pack_type,
    np.random.RandomState: _pack_random_state,
}

_PACKERS_OF_FAMILIES: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (np.generic, _pack_scalar),
    (np.dtype, _pack_dtype),
    (BaseEstimator, _pack_estimator),
    ((sparse.spmatrix, sparse.sparray), _pack_sparse),
)

_UNPACKERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "tuple": _unpack_tuple,
    "dict": _unpack_items,
    "objects": _unpack_objects,
    "fortran": _unpack_fortran,
    "scalar": _unpack_scalar,
    "dtype": _unpack_dtype,
    "type": _unpack_type,
    "sparse": _unpack_sparse,
    "random_state": _unpack_random_state,
    "estimator": _unpack_estimator,
}
