"""The layout of a frame: preamble, JSON header, buffer table, buffers.

::

    offset  size  content
         0     5  magic: 93 53 4F 4D 41
         5     1  version of the layout: 1
         6     2  reserved: 0
         8     4  length of the header in bytes
        12     4  number of entries in the buffer table
        16     8  length of everything after the preamble in bytes
        24     4  CRC-32 of the 24 bytes before
        28     …  header, then the buffer table, then the inline buffers in order

An entry of the table has 24 bytes: kind (4), region (4), generation (8), size (8). An *inline*
entry (kind 0) is a buffer of ``size`` bytes that follows in the frame. A *shared* entry (kind 1)
is one of ``size`` bytes at the start of a shared-memory region. The other kinds are no buffers;
two ends that share memory settle it among themselves (``soma_core.channel.shared_memory``).

All numbers are unsigned and little-endian. The preamble alone says where the next message
starts, so a frame whose header or table lies costs one error reply and not the stream.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

from soma_core.errors import ErrorCode, ProtocolError

__all__ = [
    "ENTRY_SIZE",
    "MAGIC",
    "PREAMBLE_SIZE",
    "Entry",
    "EntryKind",
    "FrameError",
    "Preamble",
    "WholeFrame",
    "read_preamble",
    "read_table",
    "read_whole",
    "write_frame",
    "write_inline",
]

MAGIC = b"\x93SOMA"
_VERSION = 1
_START = MAGIC + bytes((_VERSION, 0, 0))
_FIELDS = struct.Struct("<8sIIQ")
_PREAMBLE = struct.Struct("<8sIIQI")
_CHECKED_SIZE = _FIELDS.size
_CHECKSUM = struct.Struct("<I")
_ENTRY = struct.Struct("<IIQQ")
ENTRY_SIZE = _ENTRY.size
PREAMBLE_SIZE = _PREAMBLE.size


class FrameError(ProtocolError):
    """A frame that cannot be read; the refusal is a frame as well."""


class EntryKind(IntEnum):
    """What an entry of the buffer table stands for."""

    INLINE = 0
    SHARED = 1
    OFFER = 2
    ACCEPT = 3
    RETIRE = 4


_INLINE = int(EntryKind.INLINE)
_LAST_KIND = int(max(EntryKind))


class Entry(NamedTuple):
    """One entry of the buffer table; what the numbers mean depends on its kind."""

    kind: int
    region: int
    generation: int
    size: int

    @property
    def is_buffer(self) -> bool:
        """Whether it is one of the message's buffers."""
        return self.kind <= EntryKind.SHARED


class Preamble(NamedTuple):
    """What a sound preamble declares, in bytes but for the number of entries."""

    header_size: int
    entry_count: int
    body_size: int

    @property
    def table_size(self) -> int:
        """The length of the buffer table in bytes."""
        return self.entry_count * ENTRY_SIZE


def write_frame(header: bytes, entries: Sequence[Entry], inline: Sequence[Any] = ()) -> bytes:
    """A frame, as far as its inline buffers are given; the rest of them must follow it."""
    body_size = len(header) + ENTRY_SIZE * len(entries)
    table = []
    for entry in entries:
        table.append(_ENTRY.pack(*entry))
        if entry[0] == _INLINE:
            body_size += entry[3]
    preamble = _preamble(len(header), len(entries), body_size)
    return b"".join((preamble, header, *table, *inline))


def write_inline(header: bytes, buffers: Sequence[memoryview], sizes: tuple[int, ...]) -> bytes:
    """A whole frame whose buffers are all inline, and of these sizes: what most calls send."""
    preamble, table = _around(len(header), sizes)
    return b"".join((preamble, header, table, *buffers))


@lru_cache(maxsize=256)
def _around(header_size: int, sizes: tuple[int, ...]) -> tuple[bytes, bytes]:
    """The preamble and the table of a frame with inline buffers alone."""
    table = b"".join(_ENTRY.pack(_INLINE, 0, 0, size) for size in sizes)
    return _preamble(header_size, len(sizes), header_size + len(table) + sum(sizes)), table


@lru_cache(maxsize=256)
def _preamble(header_size: int, entry_count: int, body_size: int) -> bytes:
    """A preamble; the frames of a loop have the same."""
    fields = _FIELDS.pack(_START, header_size, entry_count, body_size)
    return fields + _CHECKSUM.pack(crc32(fields))


def read_preamble(data: bytes | bytearray | memoryview) -> Preamble:
    """Read the first ``PREAMBLE_SIZE`` bytes of a frame.

    Raises:
        FrameError: ``malformed``: it is damaged, or of another version of the layout.
    """
    start, header_size, entry_count, body_size, checksum = _PREAMBLE.unpack_from(data)
    if crc32(data[:_CHECKED_SIZE]) != checksum:
        raise _malformed("a frame's preamble is damaged: its checksum does not match")
    version = start[len(MAGIC)]
    if version != _VERSION:
        raise _malformed(f"a frame of layout version {version} came; this side reads {_VERSION}")
    return Preamble(header_size, entry_count, body_size)


WholeFrame = tuple[bytes, list[bytearray], Sequence[tuple[int, int, int, int]], int]
"""A sound frame: its header, its inline buffers, the entries of its table unless all of them are
inline, and where it ends."""


def read_whole(data: memoryview, longest: int) -> WholeFrame | None:
    """Read the frame that data starts with, if it is sound and all of it is here.

    The common case in one step; whatever is not right with a frame is found by the functions
    that read its parts.

    Args:
        data: What was received.
        longest: The largest body that is read in this way.
    """
    layout = _layout(bytes(data[:PREAMBLE_SIZE]))
    if layout is None:
        return None
    table, position, end, single = layout
    if end > len(data) or end > longest + PREAMBLE_SIZE:
        return None
    header = bytes(data[PREAMBLE_SIZE:table])
    if data[table:position] == single:  # what most calls send
        return header, [bytearray(data[position:end])], (), end
    inline = []
    entries = list(_ENTRY.iter_unpack(data[table:position]))
    for kind, _, _, length in entries:
        if kind == _INLINE:
            inline.append(bytearray(data[position : position + length]))
            position += length
        elif kind > _LAST_KIND:
            return None
    if position != end:
        return None
    return header, inline, () if len(inline) == len(entries) else entries, end


@lru_cache(maxsize=256)
def _layout(preamble: bytes) -> tuple[int, int, int, bytes] | None:
    """Where the table, the buffers and the end of a frame are, and its table if that has a single
    inline entry; None if the preamble is not sound. The frames of a loop have the same preamble.
    """
    if len(preamble) < PREAMBLE_SIZE:
        return None
    try:
        declared = read_preamble(preamble)
    except FrameError:
        return None
    table = PREAMBLE_SIZE + declared.header_size
    position = table + declared.table_size
    end = PREAMBLE_SIZE + declared.body_size
    if position > end:
        return None
    return table, position, end, _ENTRY.pack(_INLINE, 0, 0, end - position)


def read_table(preamble: Preamble, table: bytes | bytearray | memoryview) -> list[Entry]:
    """The entries of the buffer table.

    Raises:
        FrameError: ``malformed``: an entry has no known kind, or the inline buffers do not
            add up to the rest of the frame's body.
    """
    entries = []
    inline_size = 0
    for fields in _ENTRY.iter_unpack(table):
        kind = fields[0]
        if kind == _INLINE:
            inline_size += fields[3]
        elif kind > _LAST_KIND:
            raise _malformed(f"a frame's buffer table has an entry of unknown kind {kind}")
        entries.append(Entry._make(fields))
    expected = preamble.body_size - preamble.header_size - preamble.table_size
    if inline_size != expected:
        raise _malformed(
            f"a frame's inline buffers add up to {inline_size:,} bytes; its body has {expected:,}"
        )
    return entries


def _malformed(message: str) -> FrameError:
    return FrameError(ErrorCode.MALFORMED, message)
