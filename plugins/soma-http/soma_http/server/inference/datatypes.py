"""The datatypes of the protocol, and how arrays of them are written in JSON and in binary."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from soma_http.server.refusals import Refusal

Array = np.ndarray[Any, np.dtype[Any]]

_NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_NAMES = {dtype.str: name for name, dtype in _NUMPY.items()}
_HALF = np.dtype("<u2")  # how the bits of a BF16 are held: numpy has no such type
_LENGTH = struct.Struct("<I")


def from_json(name: str, datatype: str, shape: Sequence[int], data: Any) -> Any:
    """A tensor whose data are JSON, flat or nested.

    Raises:
        Refusal: They are not of that type or shape.
    """
    if datatype == "BYTES":
        return nested(_texts(name, data), shape, name)
    dtype = np.dtype("<f4") if datatype == "BF16" else _NUMPY[datatype]
    try:
        with np.errstate(over="raise"):
            array = _cast(_numbers(data, dtype), dtype)
    except FloatingPointError:
        raise Refusal(f"input {name!r}: a number is too large for {datatype}") from None
    except (ValueError, TypeError) as error:
        raise Refusal(f"input {name!r}: the data are not {datatype}: {error}") from None
    return _shaped(array, shape, name, datatype)


def _numbers(data: Any, dtype: np.dtype[Any]) -> Array:
    """Numbers of JSON as numpy takes them; large whole ones are not rounded on the way."""
    found = np.asarray(data)
    if dtype.kind in "iu" and found.dtype.kind in "fO":
        items = list(_flat(data))
        if items and all(type(item) is int for item in items):
            try:
                return np.array(data, dtype)
            except OverflowError:
                raise _beyond(dtype) from None
    return found


def _cast(found: Array, dtype: np.dtype[Any]) -> Array:
    """Numbers of JSON as numbers of a type; none is changed but for its precision."""
    if found.size == 0:
        return found.astype(dtype)
    if found.dtype.kind == "O" and dtype.kind == "f":
        found = _with_nan(found)
    wanted = {"b": "b", "f": "fiu", "i": "iu", "u": "iu"}[dtype.kind]
    if found.dtype.kind not in wanted:
        raise ValueError(f"they hold {_kind_of(found)}")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(found.min()) < limits.min or int(found.max()) > limits.max:
            raise _beyond(dtype)
    return found.astype(dtype)


def _beyond(dtype: np.dtype[Any]) -> ValueError:
    limits = np.iinfo(dtype)
    return ValueError(f"a number is not between {limits.min} and {limits.max}")


def _with_nan(found: Array) -> Array:
    """Numbers among which some are null, which is how JSON spells NaN."""
    if any(type(item) not in (int, float, type(None)) for item in found.ravel().tolist()):
        return found
    return found.astype("f8")


def _kind_of(found: Array) -> str:
    kinds = {"b": "booleans", "f": "numbers with a fraction", "i": "whole numbers", "U": "texts"}
    return kinds.get(found.dtype.kind, "null, something else, or lists of different lengths")


def _texts(name: str, data: Any) -> list[str]:
    found = list(_flat(data))
    for text in found:
        if not isinstance(text, str):
            raise Refusal(f"input {name!r}: BYTES in JSON are texts, and one is {text!r}")
    return found


def _flat(data: Any) -> Iterator[Any]:
    if not isinstance(data, list):
        yield data
        return
    for item in data:
        yield from _flat(item)


def nested(items: list[Any], shape: Sequence[int], name: str) -> Any:
    """Items as nested lists of a shape.

    Raises:
        Refusal: There are more or fewer than it has room for.
    """
    if len(items) != prod(shape):
        raise Refusal(
            f"input {name!r}: the shape {list(shape)} has {prod(shape)} elements, and there are "
            f"{len(items)}"
        )
    if not shape:
        return items[0]
    for length in reversed(shape[1:]):
        step = max(length, 1)
        items = [items[start : start + length] for start in range(0, len(items), step)]
    return items


def from_binary(name: str, datatype: str, shape: Sequence[int], data: memoryview) -> Any:
    """A tensor whose data are bytes, as in the binary tensor extension.

    Raises:
        Refusal: They are not as many as the shape wants.
    """
    if datatype == "BYTES":
        return nested(list(_elements(name, data)), shape, name)
    dtype = _HALF if datatype == "BF16" else _NUMPY[datatype]
    if data.nbytes != prod(shape) * dtype.itemsize:
        raise Refusal(
            f"input {name!r}: {datatype} of shape {list(shape)} has "
            f"{prod(shape) * dtype.itemsize} bytes, and there are {data.nbytes}"
        )
    array = np.frombuffer(data, dtype)
    if datatype == "BF16":
        return (array.astype("<u4") << 16).view("<f4").reshape(shape)
    return array.reshape(shape)


def _elements(name: str, data: memoryview) -> Iterator[bytes]:
    position = 0
    while position < data.nbytes:
        start = position + _LENGTH.size
        if start > data.nbytes:
            raise Refusal(f"input {name!r}: a length is cut off at the end of its bytes")
        (length,) = _LENGTH.unpack_from(data, position)
        position = start + length
        if position > data.nbytes:
            raise Refusal(f"input {name!r}: an element of {length} bytes goes beyond its end")
        yield bytes(data[start:position])


def _shaped(array: Array, shape: Sequence[int], name: str, datatype: str) -> Array:
    if array.size != prod(shape):
        raise Refusal(
            f"input {name!r}: {datatype} of shape {list(shape)} has {prod(shape)} elements, and "
            f"there are {array.size}"
        )
    return array.reshape(shape)


def datatype_of(array: Array) -> str | None:
    """The datatype of an array; None if the protocol has none for it."""
    if array.dtype.kind in "SUO":
        return "BYTES"
    return _NAMES.get(array.dtype.newbyteorder("<").str)


def to_json(array: Array, datatype: str) -> list[Any]:
    """The elements of an array, in row-major order, as JSON has them.

    Raises:
        UnicodeError: Bytes are no UTF-8, or a text is no Unicode.
    """
    if datatype == "BYTES":
        return [_text(item) for item in array.ravel().tolist()]
    items: list[Any] = array.ravel().tolist()
    return items


def _text(item: Any) -> str:
    return (item if isinstance(item, bytes) else str(item).encode()).decode()


def to_binary(array: Array, datatype: str) -> bytes:
    """The elements of an array as bytes, in row-major order.

    Raises:
        UnicodeError: A text is no Unicode.
    """
    if datatype == "BYTES":
        texts = (
            item if isinstance(item, bytes) else str(item).encode()
            for item in array.ravel().tolist()
        )
        return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
    if datatype == "BF16":
        bits = np.ascontiguousarray(array, "<f4").view("<u4")
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)
        kept = np.where(np.isnan(array), bits | 0x400000, rounded)
        return (kept >> 16).astype(_HALF).tobytes()
    return np.ascontiguousarray(array, _NUMPY[datatype]).tobytes()
