"""Samples: one value of every kind, the sizes around every limit, and how values are compared."""

from __future__ import annotations

import datetime
import decimal
import math
from typing import Any

import numpy as np

from soma_core.channel.shared_memory import THRESHOLD

_KIB = 1 << 10
_LIMITS = (0, 4 * _KIB, THRESHOLD, 64 * _KIB, 256 * _KIB, 1 << 20)
_AROUND = {size + step for size in _LIMITS for step in (-1, 0, 1) if size + step >= 0}
SIZES: tuple[int, ...] = (*sorted(_AROUND), 5_000_000)
"""Bytes: around a page, the limit of shared memory, what a pipe or a socket holds, and large."""

_DTYPES = ("?", "i1", "<i8", ">i4", "<u2", "<f2", "<f4", "<f8", "<c16", "M8[ns]", "S3", "U2")

VALUES: dict[str, Any] = {
    "None": None,
    "a bool": True,
    "an int": -(2**53),
    "a float": 0.1,
    "nan": math.nan,
    "infinity": -math.inf,
    "a string": "é\u2028\n\0 \U0001f600",
    "an empty string": "",
    "bytes": bytes(range(256)),
    "empty bytes": b"",
    "a list": [1, [2.5, None], "three"],
    "an empty list": [],
    "a tuple": (1, (2, b"three")),
    "a dict": {"a": [1, {"b": b"c"}], "": None},
    "an empty dict": {},
    "a dict like a tag": {"type": "Text", "data": "not one"},
    "a dict with other keys": {1: "a", (2, 3): "b"},
    "a set": {1, 2},
    "an object": decimal.Decimal("1.10"),
    "a date": datetime.date(2024, 2, 29),
    "a 0-d array": np.array(2.5),
    "an empty array": np.zeros((0, 3), "float32"),
    "a Fortran array": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "a strided array": np.arange(20)[::3],
    "a structured array": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "an object array": np.array([1, "two"], dtype=object),
    "arrays in lists": {"x": [np.arange(3), (np.ones((2, 2)),)]},
    **{f"an array of {dtype}": np.arange(6).reshape(2, 3).astype(dtype) for dtype in _DTYPES},
}
"""A value of every kind, by name."""


def difference(actual: Any, expected: Any, path: str = "value") -> str:
    """Where two values differ in type, shape, dtype or content; empty if they do not."""
    if type(actual) is not type(expected):
        return f"{path}: {type(actual).__name__} instead of {type(expected).__name__}"
    if isinstance(expected, np.ndarray):
        return _array_difference(actual, expected, path)
    if isinstance(expected, dict):
        if list(actual) != list(expected):
            return f"{path}: keys {list(actual)} instead of {list(expected)}"
        pairs = [(actual[key], expected[key], f"{path}[{key!r}]") for key in expected]
    elif isinstance(expected, list | tuple):
        if len(actual) != len(expected):
            return f"{path}: length {len(actual)} instead of {len(expected)}"
        pairs = [
            (a, b, f"{path}[{n}]") for n, (a, b) in enumerate(zip(actual, expected, strict=True))
        ]
    elif isinstance(expected, float) and math.isnan(expected):
        return "" if math.isnan(actual) else f"{path}: {actual!r} instead of nan"
    else:
        same = bool(actual == expected)
        return "" if same else f"{path}: {actual!r:.200} instead of {expected!r:.200}"
    return next((text for pair in pairs if (text := difference(*pair))), "")


def _array_difference(actual: Any, expected: Any, path: str) -> str:
    native = expected.dtype.newbyteorder("=")
    if actual.dtype != native or actual.shape != expected.shape:
        return f"{path}: {actual.dtype}{actual.shape} instead of {native}{expected.shape}"
    numeric = expected.dtype.kind in "fc"
    same = np.array_equal(actual, expected, equal_nan=numeric)
    return "" if same else f"{path}: other content: {actual!r:.200} instead of {expected!r:.200}"
