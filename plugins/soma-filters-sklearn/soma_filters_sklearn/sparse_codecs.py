"""Sparse matrices and arrays of scipy as typed values: their arrays, checked before they are used.

scipy's compiled code follows indices without a check: what came is compared with the shape first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from soma_core.codecs import Encoded
from soma_filters_sklearn.checks import check_compressed

_COMPRESSED = ("data", "indices", "indptr")


def encode(matrix: Any) -> Encoded:
    """The arrays that a matrix consists of, and its shape."""
    parts: dict[str, Any]
    match matrix.format:
        case "csr" | "csc" | "bsr" | "lil":
            # As many numbers as a list of rows has rows: then a few bytes cannot ask for millions.
            matrix = matrix.tocsr() if matrix.format == "lil" else matrix
            used = int(matrix.indptr[-1])
            parts = {
                "data": matrix.data[:used],
                "indices": matrix.indices[:used],
                "indptr": matrix.indptr,
            }
        case "dia":
            parts = {"data": matrix.data, "offsets": matrix.offsets}
        case _:
            entries = matrix.tocoo()
            parts = {"data": entries.data, "coords": list(entries.coords)}
    return Encoded({"shape": list(map(int, matrix.shape)), **parts})


def decode(kind: str, data: Any) -> Any:
    """The matrix of a class of :mod:`scipy.sparse` that was encoded.

    Raises:
        ValueError: It is none: an array is missing, has another form, or an index is out of range.
    """
    format_, make = kind.partition("_")[0], getattr(sparse, kind)
    shape = _shape(data)
    match format_:
        case "csr" | "csc" | "bsr" | "lil":
            values, indices, bounds = parts = tuple(_array(data, name) for name in _COMPRESSED)
            _check_compressed(format_, values, indices, bounds, shape)
            if format_ == "lil":
                return make(sparse.csr_array(parts, shape=shape))
            return make(parts, shape=shape)
        case "dia":
            values, offsets = _array(data, "data"), _array(data, "offsets")
            _check_diagonals(values, offsets)
            return make((values, offsets), shape=shape)
    values = _array(data, "data")
    coords = _coords(data, len(values), shape)
    entries = (sparse.coo_array if kind.endswith("array") else sparse.coo_matrix)(
        (values, coords), shape=shape
    )
    return make(entries)


def _shape(data: Any) -> tuple[int, ...]:
    shape = data.get("shape") if isinstance(data, dict) else None
    if type(shape) is not list or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"the shape is a list of numbers from 0 on, got {shape!r:.80}")
    return tuple(shape)


def _array(data: dict[str, Any], name: str) -> np.ndarray[Any, Any]:
    array = data.get(name)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufc":
        raise ValueError(f"{name!r} is an array of numbers, got {type(array).__name__}")
    return array


def _check_compressed(
    format_: str,
    values: np.ndarray[Any, Any],
    indices: np.ndarray[Any, Any],
    indptr: np.ndarray[Any, Any],
    shape: tuple[int, ...],
) -> None:
    rows, columns = (1, *shape) if len(shape) == 1 else shape
    if format_ == "csc":
        rows, columns = columns, rows
    if format_ != "bsr":
        check_compressed(values, indices, indptr, rows, columns)
        return
    if values.ndim != 3 or 0 in values.shape[1:]:
        raise ValueError(f"the blocks are an array of three axes, got shape {values.shape}")
    high, wide = values.shape[1:]
    if rows % high or columns % wide:
        raise ValueError(f"blocks of {high} by {wide} do not fill the shape {shape}")
    first = values[:, 0, 0]
    check_compressed(first, indices, indptr, rows // high, columns // wide)


def _check_diagonals(values: np.ndarray[Any, Any], offsets: np.ndarray[Any, Any]) -> None:
    if offsets.dtype.kind != "i" or offsets.ndim != 1 or values.ndim != 2:
        raise ValueError("diagonals are an array of two axes, and an offset for each")
    if len(offsets) != len(values) or len(np.unique(offsets)) != len(offsets):
        raise ValueError("each diagonal has one offset, and each offset one diagonal")


def _coords(
    data: dict[str, Any], count: int, shape: tuple[int, ...]
) -> tuple[np.ndarray[Any, Any], ...]:
    coords = data.get("coords")
    if type(coords) is not list or len(coords) != len(shape):
        raise ValueError(f"there is an array of coordinates for each of {len(shape)} axes")
    for axis, size in zip(coords, shape, strict=True):
        _array({"coords": axis}, "coords")
        if axis.dtype.kind != "i" or axis.shape != (count,):
            raise ValueError(f"coordinates are {count} whole numbers, got shape {axis.shape}")
        if count and not 0 <= axis.min() <= axis.max() < size:
            raise ValueError(f"a coordinate is out of range: the axis has {size} entries")
    return tuple(coords)
