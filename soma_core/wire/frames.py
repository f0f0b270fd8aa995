"""The layout of a frame: preamble, map, buffer table, buffers.

::

    offset  size  content
         0     5  magic: 93 53 4F 4D 41
         5     1  version of the layout: 2
         6     2  reserved: 0
         8     4  length of the map in bytes
        12     4  number of entries in the buffer table
        16     8  length of everything after the preamble in bytes
        24     4  CRC-32 of the 24 bytes before
        28     …  map, then the buffer table, then the inline buffers in order

The map is MessagePack: a message's fields, as in a line (:mod:`~soma_core.wire.extensions` lists
the extension types in it). An entry of the table has 24 bytes: kind (4), region (4), generation
(8), size (8). An *inline* entry (kind 0) is a buffer of ``size`` bytes that follows in the frame. A
*shared* entry (kind 1) is one of ``size`` bytes at the start of a shared-memory region, and an
entry of kind 5 is the map itself in such a region; the map of the frame is then empty. The other
kinds are no buffers; two ends that share memory settle it among themselves
(``soma_core.channel.shared_memory``).

All numbers are unsigned and little-endian. The preamble alone says where the next message
starts, so a frame whose map or table lies costs one error reply and not the stream.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from itertools import starmap
from typing import Any, NamedTuple
from zlib import crc32

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.wire.message import Message

MAGIC = b"\x93SOMA"
_VERSION = 2
_START = MAGIC + bytes((_VERSION, 0, 0))
_FIELDS = struct.Struct("<8sIIQ")
_PREAMBLE = struct.Struct("<8sIIQI")
_CHECKED_SIZE = _FIELDS.size
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
    MAP = 5


_INLINE = int(EntryKind.INLINE)
_SMALL = 1 << 16
_LAST_KIND = int(max(EntryKind))


class TableEntry(NamedTuple):
    """One entry of the buffer table; what the numbers mean depends on its kind."""

    kind: int
    region: int
    generation: int
    size: int


EntryFields = tuple[int, int, int, int]
"""What a :class:`TableEntry` holds; of most, which are of inline buffers, only the size is used."""


class Preamble(NamedTuple):
    """What a sound preamble declares: the lengths of the map, of the buffer table, and of
    everything after the preamble, in bytes."""

    header_size: int
    table_size: int
    body_size: int

    @property
    def inline_size(self) -> int:
        """The length of all inline buffers together."""
        return self.body_size - self.header_size - self.table_size


def write_frame(header: bytes, entries: Sequence[EntryFields], inline: Sequence[Any] = ()) -> bytes:
    """A frame, as far as its inline buffers are given; the rest of them must follow it."""
    header_size = len(header)
    if not entries:
        fields = _FIELDS.pack(_START, header_size, 0, header_size)
        return _PREAMBLE.pack(_START, header_size, 0, header_size, crc32(fields)) + header
    body_size = header_size + ENTRY_SIZE * len(entries)
    for kind, _, _, size in entries:
        if kind == _INLINE:
            body_size += size
    fields = _FIELDS.pack(_START, header_size, len(entries), body_size)
    preamble = _PREAMBLE.pack(_START, header_size, len(entries), body_size, crc32(fields))
    return b"".join((preamble, header, *starmap(_ENTRY.pack, entries), *inline))


def frame_parts(message: Message) -> Sequence[bytes | memoryview]:
    """A message as the bytes of one frame, all of its buffers inline.

    Args:
        message: The message.

    Returns:
        One piece, or several where the buffers are large: those are not copied.
    """
    entries: list[EntryFields] = []
    inline: list[memoryview] = []
    inline_size = 0
    for buffer in message.buffers:
        view = memoryview(buffer)
        size = view.nbytes
        inline_size += size
        inline.append(view)
        entries.append((_INLINE, 0, 0, size))
    if inline_size < _SMALL:
        return (write_frame(message.header, entries, inline),)
    whole = (view.cast("B") for view in inline if view.nbytes)
    return (write_frame(message.header, entries), *whole)


def read_preamble(data: bytes | bytearray | memoryview) -> Preamble:
    """Read the preamble of a frame.

    Args:
        data: Its first ``PREAMBLE_SIZE`` bytes.

    Raises:
        FrameError: ``malformed``: it is damaged, or of another version of the layout.
    """
    return Preamble(*preamble_fields(data))


def preamble_fields(data: bytes | bytearray | memoryview) -> tuple[int, int, int]:
    """What :func:`read_preamble` returns, at the price of a tuple."""
    start, header_size, entry_count, body_size, checksum = _PREAMBLE.unpack_from(data)
    if crc32(data[:_CHECKED_SIZE]) != checksum:
        raise _malformed("a frame's preamble is damaged: its checksum does not match")
    if start != _START:
        _check_version(start)
    return header_size, entry_count * ENTRY_SIZE, body_size


def _check_version(start: bytes) -> None:
    version = start[len(MAGIC)]
    if version != _VERSION:
        raise _malformed(
            f"this peer speaks layout {version} of frames, and this side layout {_VERSION}; "
            "upgrade soma-core on the older side"
        )


def read_table(table: bytes | bytearray | memoryview, inline_size: int) -> list[EntryFields]:
    """The entries of the buffer table.

    Args:
        table: The table.
        inline_size: The bytes of the body that follow it.

    Raises:
        FrameError: ``malformed``: an entry has no known kind, or the inline buffers do not
            add up to the rest of the frame's body.
    """
    entries: list[EntryFields] = [*_ENTRY.iter_unpack(table)]
    left = inline_size
    for kind, _, _, size in entries:
        if kind == _INLINE:
            left -= size
        elif kind > _LAST_KIND:
            raise _malformed(f"a frame's buffer table has an entry of unknown kind {kind}")
    if left:
        raise _malformed(
            f"a frame's inline buffers add up to {inline_size - left:,} bytes; its body has "
            f"{inline_size:,}"
        )
    return entries


def _malformed(message: str) -> FrameError:
    return FrameError(ErrorCode.MALFORMED, message)
