"""Packing: values as data that travels without pickle, and back.

Numbers, text, arrays, lists and string-keyed dicts stand for themselves. What the wire would
change or could only pickle, and what is still plain data at heart, is spelled as a dict with
the key ``$sklearn``: tuples, numpy scalars, arrays of text, arrays in Fortran order, masked arrays,
sparse matrices, dtypes, random generators, kernels, estimators, trees.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch

from soma_filters_sklearn import sparse_codecs
from soma_filters_sklearn.catalogue import HOMES
from soma_filters_sklearn.classes import class_at, class_or_none
from soma_filters_sklearn.compiled import SPELLINGS, Spelling, check_generator, spelling_of
from soma_filters_sklearn.configuration import check_parameters_of_state
from soma_filters_sklearn.functions import function_at, function_path
from soma_filters_sklearn.invariants import check_fitted, shadows
from soma_filters_sklearn.literals import TAG, tagged
from soma_filters_sklearn.spelling import NotSpelled, construct, spell_object

_SPARSE = frozenset({"csr_array", "csr_matrix", "csc_array", "csc_matrix"})
_FUNCTIONS = frozenset(
    {
        "sklearn.cluster._kmeans._kmeans_single_elkan",
        "sklearn.cluster._kmeans._kmeans_single_lloyd",
        "sklearn.utils.validation.check_array",
    }
)
_FACTORIES = {kind.__name__: kind for kind in (dict, float, int, list, OrderedDict)}
_PRIVATE = frozenset(
    {
        *(f"lightgbm.sklearn.LGBM{kind}" for kind in ("Classifier", "Ranker", "Regressor")),
        *(f"xgboost.sklearn.XGB{kind}" for kind in ("Classifier", "Ranker", "Regressor")),
        *(f"xgboost.sklearn.XGBRF{kind}" for kind in ("Classifier", "Regressor")),
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.calibration._TemperatureScaling",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.frozen._frozen.FrozenEstimator",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.impute._iterative.IterativeImputer",
        "sklearn.multiclass._ConstantPredictor",
    }
)  # estimators that are not registered, and that registered ones hold
_LARGEST_PITCH = 8  # times the length of a row: what lies between the rows is memory for nothing
_OF_PARAMETERS = frozenset({"sklearn.gaussian_process.kernels", "sklearn.model_selection._split"})


class NotPackable(Exception):
    """A value that cannot be spelled as plain data."""


def pack(value: Any) -> Any:
    """A value as plain data.

    Raises:
        NotPackable: It cannot be spelled.
    """
    packer = _PACKERS.get(type(value))
    if packer is not None:
        return packer(value)
    family = next(packer for kind, packer in _PACKERS_OF_FAMILIES if isinstance(value, kind))
    return family(value)


def unpack(value: Any) -> Any:
    """What :func:`pack` made plain data of.

    Raises:
        ValueError: It is none of what that returns.
    """
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if isinstance(value, dict):
        return _unpack_dict(value)
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 0:
        return value.item()
    return value


def _unpack_dict(value: dict[str, Any]) -> Any:
    if TAG not in value:
        return {key: unpack(item) for key, item in value.items()}
    try:
        return _UNPACKERS[value[TAG]](value)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the state holds a {value[TAG]!r} that is not well formed ({error!r}); "
            "send the state as fit returned it"
        ) from error


def attributes_of(estimator: Any) -> dict[str, Any]:
    """What an estimator would pickle, by name, but for its requests, which hold itself."""
    held = estimator.__getstate__()
    if not isinstance(held, dict):
        return {}  # None, if there is nothing
    return {name: value for name, value in held.items() if name != "_metadata_request"}


def reads_own_state(estimator: Any) -> bool:
    """Whether code of another package than scikit-learn makes it of its pickled state, whole."""
    readers = (kind for kind in type(estimator).__mro__ if "__setstate__" in vars(kind))
    reader = next(readers, None)
    return reader is not None and reader.__module__.partition(".")[0] != "sklearn"


def _pack_list(value: list[Any] | tuple[Any, ...]) -> list[Any]:
    return [pack(item) for item in value]


def _pack_dict(value: dict[Any, Any]) -> dict[str, Any]:
    if all(type(key) is str for key in value) and TAG not in value:
        return {key: pack(item) for key, item in value.items()}
    return tagged("dict", items=_pack_items(value))


def _pack_items(value: dict[Any, Any]) -> list[list[Any]]:
    return [[pack(key), pack(item)] for key, item in value.items()]


def _unpack_items(value: dict[str, Any]) -> dict[Any, Any]:
    return {unpack(key): unpack(item) for key, item in value["items"]}


def _pack_default(value: defaultdict[Any, Any]) -> dict[str, Any]:
    name = next((name for name, kind in _FACTORIES.items() if kind is value.default_factory), None)
    if name is None:
        raise NotPackable
    return tagged("default", factory=name, items=_pack_items(value))


def _pack_array(value: np.ndarray[Any, Any]) -> Any:
    if value.dtype == object:
        return tagged("objects", shape=list(value.shape), items=_pack_list(value.ravel().tolist()))
    if value.dtype.hasobject or value.dtype.kind == "T":
        raise NotPackable
    if value.flags.c_contiguous:
        return value
    if value.ndim == 2 and min(value.strides) >= value.itemsize:
        return _pack_layout(value)
    return tagged("fortran", transposed=value.T) if value.flags.f_contiguous else value


def _pack_layout(value: np.ndarray[Any, Any]) -> dict[str, Any]:
    """A table and where its rows begin in memory, since BLAS rounds by that, too."""
    transposed = value.strides[0] < value.strides[1]
    table = value.T if transposed else value
    beside = table.strides[1] == table.itemsize and table.strides[0] % table.itemsize == 0
    pitch = table.strides[0] // table.itemsize if beside else table.shape[1]
    if pitch > _LARGEST_PITCH * table.shape[1]:
        pitch = table.shape[1]
    return tagged("table", values=np.ascontiguousarray(table), pitch=pitch, transposed=transposed)


def _unpack_layout(value: dict[str, Any]) -> Any:
    values, pitch = value["values"], value["pitch"]
    if not values.shape[1] <= pitch <= _LARGEST_PITCH * values.shape[1]:
        raise ValueError(f"rows of {values.shape[1]} do not begin every {pitch}")
    table = np.zeros((len(values), pitch), values.dtype)[:, : values.shape[1]]
    table[...] = values
    return table.T if value["transposed"] else table


def _unpack_objects(value: dict[str, Any]) -> Any:
    array = np.empty(tuple(value["shape"]), dtype=object)
    for index, item in enumerate(value["items"]):
        array.flat[index] = unpack(item)
    return array


def _pack_scalar(value: np.generic) -> dict[str, Any]:
    if value.dtype.hasobject:
        raise NotPackable
    return tagged("scalar", array=np.asarray(value))


def _pack_dtype(value: np.dtype[Any]) -> dict[str, Any]:
    if value.fields is not None:
        raise NotPackable
    return tagged("dtype", name=value.str)


def _pack_type(value: type) -> dict[str, Any]:
    if not issubclass(value, np.generic):
        raise NotPackable
    return tagged("type", name=np.dtype(value).name)


def _pack_sparse(value: Any) -> dict[str, Any]:
    kind = f"{value.format}_{'array' if isinstance(value, sparse.sparray) else 'matrix'}"
    if kind not in _SPARSE:
        raise NotPackable
    return tagged("sparse", kind=kind, **sparse_codecs.encode(value).data)


def _unpack_sparse(value: dict[str, Any]) -> Any:
    if value["kind"] not in _SPARSE:
        raise ValueError(f"the kind is one of {', '.join(sorted(_SPARSE))}")
    return sparse_codecs.decode(value["kind"], value)


def _pack_random_state(value: np.random.RandomState) -> dict[str, Any]:
    return tagged("random_state", state=pack(value.get_state(legacy=False)))


def _unpack_random_state(value: dict[str, Any]) -> np.random.RandomState:
    generator = np.random.RandomState()
    state = unpack(value["state"])
    check_generator(state)
    generator.set_state(state)
    return generator


def _pack_masked(value: Any) -> dict[str, Any]:
    return tagged(
        "masked",
        data=pack(value.data),
        mask=np.ma.getmaskarray(value),
        fill_value=pack(value.fill_value),
    )


def _unpack_masked(value: dict[str, Any]) -> Any:
    data, fill_value = unpack(value["data"]), unpack(value["fill_value"])
    return np.ma.MaskedArray(data, mask=value["mask"], fill_value=fill_value)


def _pack_estimator(value: Any) -> dict[str, Any]:
    kind = type(value)
    path = f"{kind.__module__}.{kind.__qualname__}"
    public = class_or_none(f"sklearn.{kind.__name__}") is kind
    if not public and path not in _PRIVATE:
        raise NotPackable
    try:
        check_parameters_of_state(value)
    except ValueError:
        raise NotPackable from None
    return tagged(
        "estimator",
        name=kind.__name__ if public else path,
        attributes={key: pack(item) for key, item in attributes_of(value).items()},
    )


def _unpack_estimator(value: dict[str, Any]) -> Any:
    kind = _estimator_class(value["name"])
    estimator = kind.__new__(kind)
    attributes = {key: unpack(item) for key, item in value["attributes"].items()}
    set_attributes(estimator, attributes)
    check_parameters_of_state(estimator)
    return estimator


def set_attributes(estimator: Any, attributes: dict[str, Any]) -> None:
    """Give an estimator what it holds, and check that it may.

    Raises:
        ValueError: It does not fit together.
    """
    for name in attributes:
        if shadows(estimator, name):
            raise ValueError(f"{name} is a method of a {type(estimator).__name__}")
    set_state = getattr(estimator, "__setstate__", vars(estimator).update)
    beside = attributes_of(estimator) if reads_own_state(estimator) else {}
    set_state({**beside, **attributes})
    check_fitted(estimator)


def _estimator_class(name: str) -> Any:
    """An estimator's class whose attributes are then set, of those that are checked."""
    if name in HOMES:
        return class_at(f"sklearn.{name}")
    if name not in _PRIVATE:
        raise ValueError(f"{name!r} is no estimator that a state may hold")
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _pack_object(value: Any) -> Any:
    """What is spelled by its parts, or a kernel or splitter, which is all parameters."""
    spelling = spelling_of(value)
    if spelling is not None:
        return _pack_parts(spelling, value)
    if type(value).__module__ not in _OF_PARAMETERS:
        raise NotPackable
    try:
        path, parameters = spell_object(value)
    except NotSpelled:
        raise NotPackable from None
    return tagged("object", name=path, parameters=parameters)


def _pack_function(value: Callable[..., Any]) -> dict[str, Any]:
    path = f"{value.__module__}.{value.__name__}"
    found = path if path in _FUNCTIONS else function_path(value)
    if found is None:
        raise NotPackable
    return tagged("function", path=found)


def _unpack_function(value: dict[str, Any]) -> Any:
    module, _, name = value["path"].rpartition(".")
    if value["path"] in _FUNCTIONS:
        return getattr(importlib.import_module(module), name)
    return function_at(value["path"])


def _pack_parts(spelling: Spelling, value: Any) -> dict[str, Any]:
    parts = spelling.take(value)
    if parts is None:
        raise NotPackable
    return tagged(spelling.tag, parts={name: pack(part) for name, part in parts.items()})


def _unpack_parts(value: dict[str, Any]) -> Any:
    parts = {name: unpack(part) for name, part in value["parts"].items()}
    return SPELLINGS[value[TAG]].make(parts)


def _unpack_object(value: dict[str, Any]) -> Any:
    if value["name"].rpartition(".")[0] not in _OF_PARAMETERS:
        raise ValueError(f"{value['name']!r} is neither a kernel nor a splitter")
    return construct(value["name"], value["parameters"])


_PACKERS: dict[type, Callable[[Any], Any]] = {
    **dict.fromkeys((type(None), bool, int, float, str, bytes), lambda value: value),
    list: _pack_list,
    tuple: lambda value: tagged("tuple", items=_pack_list(value)),
    dict: _pack_dict,
    np.ndarray: _pack_array,
    np.ma.MaskedArray: _pack_masked,
    type: _pack_type,
    Bunch: lambda value: tagged("bunch", items=_pack_dict(dict(value))),
    OrderedDict: lambda value: tagged("ordered", items=_pack_items(value)),
    defaultdict: _pack_default,
    np.random.RandomState: _pack_random_state,
    np.ufunc: _pack_function,
    FunctionType: _pack_function,
}

_PACKERS_OF_FAMILIES: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (np.generic, _pack_scalar),
    (np.dtype, _pack_dtype),
    (BaseEstimator, _pack_estimator),
    ((sparse.spmatrix, sparse.sparray), _pack_sparse),
    (object, _pack_object),
)

_UNPACKERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "tuple": lambda value: tuple(unpack(value["items"])),
    "dict": _unpack_items,
    "objects": _unpack_objects,
    "bunch": lambda value: Bunch(**unpack(value["items"])),
    "ordered": lambda value: OrderedDict(_unpack_items(value)),
    "default": lambda value: defaultdict(_FACTORIES[value["factory"]], _unpack_items(value)),
    "function": _unpack_function,
    "fortran": lambda value: value["transposed"].T,
    "table": _unpack_layout,
    "scalar": lambda value: value["array"][()],
    "dtype": lambda value: np.dtype(value["name"]),
    "type": lambda value: np.dtype(value["name"]).type,
    "sparse": _unpack_sparse,
    "random_state": _unpack_random_state,
    "estimator": _unpack_estimator,
    "object": _unpack_object,
    "masked": _unpack_masked,
    **dict.fromkeys(SPELLINGS, _unpack_parts),
}
