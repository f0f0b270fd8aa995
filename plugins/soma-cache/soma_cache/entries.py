"""Entries: a result as bytes, in the frames of the protocol, with a checksum before them.

An entry is its key, a checksum of all that follows, and one frame with the encoded result. An
entry that was cut short or changed is found out before anything of it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from xxhash import xxh3_128

from soma_cache.keys import KEY_SIZE
from soma_core.errors import ProtocolError
from soma_core.wire.codec import Decoder, FrameEncoder
from soma_core.wire.frames import (
    PREAMBLE_SIZE,
    Entry,
    EntryKind,
    read_preamble,
    read_table,
    write_frame,
)
from soma_core.wire.json_text import read_json, write_json
from soma_core.wire.pickles import Pickles

__all__ = ["Damaged", "encode", "read", "size_of"]

_CHECKSUM_SIZE = 16
_NEAR = 1 << 20  # bytes that a processor has in its own cache when they are hashed


class Damaged(Exception):
    """The bytes are not the entry that was written."""


def encode(key: bytes, result: Any, typed: Pickles) -> list[memoryview]:
    """An entry in pieces; arrays are views of the result.

    Raises:
        ProtocolError: ``pickle_refused``: it is not typed values.
    """
    encoder = FrameEncoder(pickles=typed)
    header = write_json(encoder.encode(result))
    buffers = [_bytes(buffer) for buffer in encoder.buffers]
    table = [Entry(EntryKind.INLINE, 0, 0, buffer.nbytes) for buffer in buffers]
    pieces = [memoryview(write_frame(header, table)), *buffers]
    # write_frame counts what follows it by the table, so that the buffers need no copy
    hasher = xxh3_128()
    for piece in pieces:
        hasher.update(piece)
    return [memoryview(key + hasher.digest()), *pieces]


def size_of(pieces: list[memoryview]) -> int:
    """The bytes of an entry."""
    return sum(piece.nbytes for piece in pieces)


def read(key: bytes, file: BinaryIO, size: int, typed: Pickles) -> Any:
    """The result in an entry, on memory of its own.

    Args:
        key: The key under which it was found.
        file: At the start of the entry.
        size: The bytes that there are.
        typed: How the result is decoded: without pickles.

    Raises:
        Damaged: It is not the entry that was written under the key.
    """
    try:
        parts = list(_parts(key, file, size))
        header, *buffers = parts
        return Decoder(buffers, pickles=typed).decode(read_json(header))
    except (ProtocolError, ValueError, MemoryError) as error:
        raise Damaged(str(error)) from None


def _parts(key: bytes, file: BinaryIO, size: int) -> Iterator[Any]:
    """The header and the buffers of an entry, checked at the end."""
    told = _take(file, KEY_SIZE + _CHECKSUM_SIZE + PREAMBLE_SIZE, size, xxh3_128())
    if told[:KEY_SIZE].tobytes() != key:
        raise Damaged("it is the entry of another key")
    checksum = told[KEY_SIZE : KEY_SIZE + _CHECKSUM_SIZE].tobytes()
    start = told[KEY_SIZE + _CHECKSUM_SIZE :]
    preamble = read_preamble(start.tobytes())
    if len(told) + preamble.body_size != size:
        raise Damaged(f"it has {size:,} bytes, and another length is written in it")
    hasher = xxh3_128(start.data)
    front = _take(file, preamble.header_size + preamble.table_size, size, hasher)
    table = read_table(preamble, front[preamble.header_size :].tobytes())
    yield front[: preamble.header_size].tobytes()
    for entry in table:
        yield _take(file, entry.size, size, hasher)
    if hasher.digest() != checksum:
        raise Damaged("its checksum does not match")


def _take(file: BinaryIO, count: int, size: int, hasher: xxh3_128) -> np.ndarray[Any, Any]:
    """The next bytes, in memory that is writable and was not cleared first; hashed while near."""
    if count > size:
        raise Damaged(f"it has {size:,} bytes, and another length is written in it")
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
