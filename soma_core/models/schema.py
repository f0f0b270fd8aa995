"""Schema: the element type and shape of what goes into or out of a filter, and the check."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

from pydantic import Field
from pydantic.dataclasses import dataclass

from soma_core.models.frozen import NO_EXTRA, Frozen


class DataType(StrEnum):
    """The element types that a schema can ask for; ``Json`` accepts every value."""

    FLOAT64 = "Float64"
    FLOAT32 = "Float32"
    FLOAT16 = "Float16"
    BFLOAT16 = "BFloat16"
    INT64 = "Int64"
    INT32 = "Int32"
    INT16 = "Int16"
    INT8 = "Int8"
    UINT8 = "UInt8"
    BOOL = "Bool"
    UTF8 = "Utf8"
    BYTES = "Bytes"
    JSON = "Json"


@dataclass(frozen=True, config=NO_EXTRA)
class Fixed:
    """An axis of exactly this length: ``Fixed(64)``, in JSON ``{"Fixed": 64}``."""

    Fixed: Annotated[int, Field(ge=0)]

    def __str__(self) -> str:
        return str(self.Fixed)


@dataclass(frozen=True, config=NO_EXTRA)
class Dynamic:
    """An axis of any length; axes of one name have one length within a call.

    ``Dynamic("batch")``, in JSON ``{"Dynamic": "batch"}``.
    """

    Dynamic: str

    def __str__(self) -> str:
        return self.Dynamic


Dimension = Fixed | Dynamic


class SchemaMismatch(ValueError):
    """A value does not have the declared element type or shape."""


class Schema(Frozen):
    """The element type and shape that a filter declares for its input or output.

    Attributes:
        dtype: The element type. An array must have exactly this type; the numbers of a plain
            list need only fit it, since JSON knows one kind of number: whole ones are of every
            type in whose range they lie.
        shape: One :class:`Fixed` or :class:`Dynamic` per axis; None where it is unknown.
    """

    dtype: DataType
    shape: tuple[Dimension, ...] | None = None

    def __str__(self) -> str:
        return self.dtype.value + _shape_text(self.shape)

    def check(self, value: object, lengths: dict[str, int] | None = None) -> None:
        """Compare a value with this schema.

        Args:
            value: An array, a torch tensor, a plain (nested) list, a number, text or bytes.
            lengths: The lengths that named axes already have in this call; new ones are added.

        Raises:
            SchemaMismatch: The value differs; the message has what was expected and what came.
        """
        if self.dtype is DataType.JSON and self.shape is None:
            return
        found = _describe(value)
        fits = self.dtype is DataType.JSON or self.dtype in found.fits
        if not fits or not self._accepts_shape(found, lengths):
            known = ", ".join(f"{name}={size}" for name, size in (lengths or {}).items())
            where = f" (with {known})" if known else ""
            raise SchemaMismatch(f"expected {self}{where}, got {found}")

    def _accepts_shape(self, found: _Found, lengths: dict[str, int] | None) -> bool:
        if self.shape is None:
            return True
        if found.shape is None or len(found.shape) != len(self.shape):
            return False
        bound = {} if lengths is None else lengths
        for axis, size in zip(self.shape, found.shape, strict=True):
            wanted = axis.Fixed if isinstance(axis, Fixed) else bound.setdefault(axis.Dynamic, size)
            if wanted != size:
                return False
        return True


class _Found(NamedTuple):
    """What a value turned out to be: a name for messages, the dtypes it fits, its shape."""

    name: str
    fits: frozenset[DataType]
    shape: tuple[int, ...] | None

    def __str__(self) -> str:
        return self.name + _shape_text(self.shape)


def _shape_text(shape: tuple[Any, ...] | None) -> str:
    return "" if shape is None else "[" + ", ".join(map(str, shape)) + "]"


FLOATS = frozenset({DataType.FLOAT64, DataType.FLOAT32, DataType.FLOAT16, DataType.BFLOAT16})
"""The element types of real numbers."""

_INTEGERS = {  # and their ranges
    DataType.INT64: (-(2**63), 2**63 - 1),
    DataType.INT32: (-(2**31), 2**31 - 1),
    DataType.INT16: (-(2**15), 2**15 - 1),
    DataType.INT8: (-(2**7), 2**7 - 1),
    DataType.UINT8: (0, 2**8 - 1),
}
_OF_ARRAYS = {dtype.lower(): dtype for dtype in (*FLOATS, *_INTEGERS, DataType.BOOL)}
_OF_PYTHON: dict[type, DataType] = {
    float: DataType.FLOAT64,
    int: DataType.INT64,
    bool: DataType.BOOL,
    str: DataType.UTF8,
    bytes: DataType.BYTES,
}


def _describe(value: object) -> _Found:
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None and shape is not None:
        return _describe_array(str(dtype).removeprefix("torch."), tuple(shape))
    if isinstance(value, list | tuple) or type(value) in _OF_PYTHON:
        return _describe_plain(value)
    return _Found(type(value).__name__, frozenset(), None)


def _describe_array(dtype: str, shape: tuple[int, ...]) -> _Found:
    if dtype.startswith(("<U", "str")):
        found: DataType | None = DataType.UTF8
    elif dtype.startswith(("|S", "bytes")):
        found = DataType.BYTES
    else:
        found = _OF_ARRAYS.get(dtype)
    return _Found(found or dtype, frozenset({found} if found else ()), shape)


def _describe_plain(value: object) -> _Found:
    """A number, a text or bytes, or a nested list of these."""
    shape = _list_shape(value)
    if shape is None:
        return _Found("a ragged list", frozenset(), None)
    items = list(_leaves(value))
    kinds = set(map(type, items))
    if not kinds:
        return _Found("an empty list", frozenset(DataType), shape)
    if not kinds <= _OF_PYTHON.keys():
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        return _Found(f"a list of {names}", frozenset(), shape)
    found = {_OF_PYTHON[kind] for kind in kinds}
    if kinds <= {int, float}:  # JSON, and a Tensor without dtype, know one kind of number
        fits = FLOATS | _integers_of(items)
        if kinds == {int} and DataType.INT64 not in fits:
            return _Found("integers of more than 64 bits", fits, shape)
    else:
        fits = frozenset(found if len(found) == 1 else ())
    return _Found(" and ".join(sorted(found)), fits, shape)


def _integers_of(numbers: list[Any]) -> frozenset[DataType]:
    """The types of integers that all of the numbers can be, none if one is no whole number."""
    if not all(type(number) is int or number.is_integer() for number in numbers):
        return frozenset()
    least, most = min(numbers), max(numbers)
    return frozenset(
        dtype for dtype, (low, high) in _INTEGERS.items() if low <= least and most <= high
    )


def _list_shape(value: object) -> tuple[int, ...] | None:
    """The shape of nested lists, or None if they are ragged."""
    if not isinstance(value, list | tuple):
        return ()
    shapes = {_list_shape(item) for item in value}
    if len(shapes) > 1 or None in shapes:
        return None
    inner = shapes.pop() if shapes else ()
    return (len(value), *(inner or ()))


def _leaves(value: object) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
