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

__all__ = ["readable"]


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


def _items(data: bytes) -> list[Any]:
    items = readable(data)
    if not isinstance(items, list):
        raise ValueError("not an array")
    return items


def _map(data: bytes) -> Any:
    keys, values = _items(data)
    return {"$soma": "dict", "keys": keys, "values": values}


def _records(data: bytes) -> Any:
    keys, *columns = _items(data)
    return {"$soma": "records", "keys": keys, "columns": columns}


def _ragged(data: bytes) -> Any:
    lengths, items = _items(data)
    return {"$soma": "ragged tuples", "lengths": lengths, "items": items}


def _stdlibs(data: bytes) -> Any:
    name, contents = _items(data)
    return {"$soma": f"list of {name}", "data": contents}


def _pickles(data: bytes) -> Any:
    count, buffer, buffers = _items(data)
    return {"type": "Objects", "data": {"count": count, "buffer": buffer, "buffers": buffers}}


def _codec(data: bytes) -> Any:
    codec, distribution, content, buffers = _items(data)
    named = {"$soma": "codec", "codec": codec, "distribution": distribution}
    return {**named, "data": content, "buffers": buffers}


def _pickle(data: bytes) -> Any:
    buffer, buffers = _items(data)
    return {"type": "Object", "data": {"buffer": buffer, "buffers": buffers}}


def _scalar(data: bytes) -> Any:
    dtype, content = _items(data)
    return {"$soma": "scalar", "dtype": dtype, "data": content}


def _stdlib(data: bytes) -> Any:
    name, content = _items(data)
    return {"$soma": name, "data": content}


_TAGS: dict[int, Callable[[bytes], Any]] = {
    Extension.ARRAY: _tensor,
    Extension.TENSOR: _torch,
    Extension.TUPLE: lambda data: {"$soma": "tuple", "items": _items(data)},
    Extension.TUPLES: lambda data: {"$soma": "tuples", "columns": _items(data)},
    Extension.SCALAR: _scalar,
    Extension.SCALARS: _scalar,
    Extension.INT: lambda data: {"$soma": "int", "value": hex(int.from_bytes(data, signed=True))},
    Extension.COMPLEX: lambda data: {"$soma": "complex", "data": data},
    Extension.MAP: _map,
    Extension.TEXT: lambda data: {"$soma": "text", "data": data},
    Extension.BYTES: lambda data: {"type": "Bytes", "data": {"buffer": _items(data)[0]}},
    Extension.STDLIB: _stdlib,
    Extension.CODEC: _codec,
    Extension.PICKLE: _pickle,
    Extension.RAGGED: _ragged,
    Extension.RECORDS: _records,
    Extension.STDLIBS: _stdlibs,
    Extension.PICKLES: _pickles,
}
