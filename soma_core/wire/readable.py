"""A frame's map as plain data that a person, or a program without MessagePack, can look at.

Extension types become the tags of the lines dialect, with buffers by their number; nothing is
decoded, unpickled or looked up. It is a view: what is sent again is the map itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ormsgpack
from ormsgpack import unpackb

from soma_core.wire.extensions import Extension


def readable(header: Any) -> Any:
    """The map of a frame as plain data, bytes among it; what is not MessagePack stays bytes."""
    try:
        return unpackb(header, ext_hook=_tag, option=ormsgpack.OPT_NON_STR_KEYS)
    except ValueError:
        return bytes(header)


def _tag(number: int, data: bytes) -> Any:
    try:
        return _TAGS[number](data)
    except (KeyError, TypeError, ValueError, IndexError):
        return {"$soma": "extension", "number": number, "data": data}


def _items(data: bytes) -> list[Any]:
    items = readable(data)
    if not isinstance(items, list):
        raise ValueError("not an array")
    return items


def _tensor(data: bytes) -> Any:
    buffer, dtype, shape, *rest = _items(data)
    tensor: dict[str, Any] = {"buffer": buffer, "dtype": dtype, "shape": shape}
    if rest:
        tensor["order"] = rest[0]
    return {"type": "Tensor", "data": tensor}


def _torch(data: bytes) -> Any:
    buffer, dtype, shape, *rest = _items(data)
    tensor = {"buffer": buffer, "dtype": dtype, "container": "torch", "shape": shape}
    return {"type": "Tensor", "data": {**tensor, **(rest[0] if rest else {})}}


def _records(data: bytes) -> Any:
    keys, *columns = _items(data)
    return {"$soma": "records", "keys": keys, "columns": columns}


def _stdlib(data: bytes) -> Any:
    name, content = _items(data)
    return {"$soma": name, "data": content}


def _stdlibs(data: bytes) -> Any:
    name, contents = _items(data)
    return {"$soma": f"list of {name}", "data": contents}


def _named(tag: str, *names: str) -> Callable[[bytes], Any]:
    """Items that are called by these names, under a tag."""
    return lambda data: {"$soma": tag, **dict(zip(names, _items(data), strict=True))}


def _value(kind: str, *names: str) -> Callable[[bytes], Any]:
    """Likewise, as the data of a tagged value."""
    return lambda data: {"type": kind, "data": dict(zip(names, _items(data), strict=True))}


_TAGS: dict[int, Callable[[bytes], Any]] = {
    Extension.ARRAY: _tensor,
    Extension.TENSOR: _torch,
    Extension.TUPLE: lambda data: {"$soma": "tuple", "items": _items(data)},
    Extension.TUPLES: lambda data: {"$soma": "tuples", "columns": _items(data)},
    Extension.SCALAR: _named("scalar", "dtype", "data"),
    Extension.SCALARS: _named("scalar", "dtype", "data"),
    Extension.INT: lambda data: {"$soma": "int", "value": hex(int.from_bytes(data, signed=True))},
    Extension.COMPLEX: lambda data: {"$soma": "complex", "data": data},
    Extension.MAP: _named("dict", "keys", "values"),
    Extension.TEXT: lambda data: {"$soma": "text", "data": data},
    Extension.BYTES: lambda data: {"type": "Bytes", "data": {"buffer": _items(data)[0]}},
    Extension.STDLIB: _stdlib,
    Extension.CODEC: _named("codec", "codec", "distribution", "data", "buffers"),
    Extension.PICKLE: _value("Object", "buffer", "buffers"),
    Extension.RAGGED: _named("ragged tuples", "lengths", "items"),
    Extension.RECORDS: _records,
    Extension.STDLIBS: _stdlibs,
    Extension.PICKLES: _value("Objects", "count", "buffer", "buffers"),
}
