"""Entries: a result as MessagePack and buffers, with a checksum before them.

An entry is its key, a checksum of all that follows, the sizes of its parts, the MessagePack of the
result, and the buffers that this refers to. One that was cut short or changed is noticed before
anything of it is used.
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import numpy as np
from xxhash import xxh3_128

from soma_cache.keys import KEY_SIZE
from soma_core.errors import ProtocolError
from soma_core.execution import pack, unpack

_CHECKSUM_SIZE = 16
_START = struct.Struct("<QQ")  # bytes of MessagePack, number of buffers
_NEAR = 1 << 20  # bytes that a processor has in its own cache when they are hashed


class Damaged(Exception):
    """The bytes are not the entry that was written."""


def encode(key: bytes, result: Any) -> list[memoryview]:
    """An entry in pieces; arrays are views of the result.

    Raises:
        ProtocolError: ``pickle_refused``: it is not typed values.
    """
    header, packed = pack(result)
    buffers = [_bytes(buffer) for buffer in packed]
    sizes = [buffer.nbytes for buffer in buffers]
    front = _START.pack(len(header), len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes) + header
    pieces = [memoryview(front), *buffers]
    hasher = xxh3_128()
    for piece in pieces:
        hasher.update(piece)
    return [memoryview(key + hasher.digest()), *pieces]


def size_of(pieces: list[memoryview]) -> int:
    """The bytes of an entry."""
    return sum(piece.nbytes for piece in pieces)


def read(key: bytes, file: BinaryIO, size: int) -> Any:
    """The result in an entry, on memory of its own.

    Raises:
        Damaged: It is not the entry that was written under the key.
    """
    try:
        header, *buffers = _parts(key, file, size)
        return unpack(header, buffers)
    except (ProtocolError, ValueError) as error:
        raise Damaged(str(error)) from None


def _parts(key: bytes, file: BinaryIO, size: int) -> list[Any]:
    """The MessagePack and the buffers of an entry, once its checksum is known to match."""
    begin = _take(file, KEY_SIZE + _CHECKSUM_SIZE, size, xxh3_128()).tobytes()
    if begin[:KEY_SIZE] != key:
        raise Damaged("it is the entry of another key")
    hasher = xxh3_128()
    start = _take(file, _START.size, size, hasher)
    header_size, count = _START.unpack(start.data)
    table = _take(file, count * 8, size, hasher)
    sizes = struct.unpack(f"<{count}Q", table.data)
    declared = len(begin) + len(start) + len(table) + header_size + sum(sizes)
    if declared != size:
        raise Damaged(f"it has {size:,} bytes and declares {declared:,}")
    header = _take(file, header_size, size, hasher).tobytes()
    buffers = [_take(file, length, size, hasher) for length in sizes]
    if hasher.digest() != begin[KEY_SIZE:]:
        raise Damaged("its checksum does not match")
    return [header, *buffers]


def _take(file: BinaryIO, count: int, size: int, hasher: xxh3_128) -> np.ndarray[Any, Any]:
    """The next bytes, in memory that is writable and was not cleared first; hashed while near."""
    if count > size:
        raise Damaged(f"it has {size:,} bytes, too few")
    buffer = np.empty(count, np.uint8)
    view = buffer.data
    while view.nbytes:
        read = file.readinto(view[:_NEAR])  # type: ignore[attr-defined]
        if not read:
            raise Damaged("it ends too early")
        hasher.update(view[:read])
        view = view[read:]
    return buffer


def _bytes(buffer: Any) -> memoryview:
    view = memoryview(buffer)
    return view.cast("B") if view.nbytes else memoryview(b"")
