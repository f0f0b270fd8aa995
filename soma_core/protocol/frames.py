"""The layout of a frame: preamble, JSON header, buffer table, buffers.

::

    offset  size  content
         0     5  magic: 93 53 4F 4D 41
         5     1  version of the layout: 1
         6     2  reserved: 0
         8     4  length of the header in bytes
        12     4  number of buffers
        16     8  length of everything after the preamble in bytes
        24     4  CRC-32 of the 24 bytes before
        28     …  header, then one 8-byte length for each buffer, then the buffers

All numbers are unsigned and little-endian. The preamble alone says where the next message
starts, so a frame whose header or table lies costs one error reply and not the stream.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from soma_core.errors import ErrorCode, ProtocolError

__all__ = ["MAGIC", "PREAMBLE_SIZE", "Preamble", "read_preamble", "read_table", "write_frame"]

MAGIC = b"\x93SOMA"
_VERSION = 1
_FIELDS = struct.Struct("<5sBHIIQ")
_CHECKSUM = struct.Struct("<I")
_ENTRY_SIZE = 8
PREAMBLE_SIZE = _FIELDS.size + _CHECKSUM.size


class Preamble(NamedTuple):
    """What a sound preamble declares, in bytes but for the number of buffers."""

    header_size: int
    buffer_count: int
    body_size: int

    @property
    def table_size(self) -> int:
        """The length of the buffer table in bytes."""
        return self.buffer_count * _ENTRY_SIZE


def write_frame(header: bytes, buffers: Sequence[Any]) -> bytes:
    """Everything of a frame that comes before its buffers."""
    sizes = [memoryview(buffer).nbytes for buffer in buffers]
    table = struct.pack(f"<{len(sizes)}Q", *sizes)
    body_size = len(header) + len(table) + sum(sizes)
    fields = _FIELDS.pack(MAGIC, _VERSION, 0, len(header), len(sizes), body_size)
    return b"".join((fields, _CHECKSUM.pack(zlib.crc32(fields)), header, table))


def read_preamble(data: bytes | bytearray | memoryview) -> Preamble:
    """Read the first ``PREAMBLE_SIZE`` bytes of a frame.

    Raises:
        ProtocolError: ``malformed``: it is damaged, or of another version of the layout.
    """
    fields = bytes(data[: _FIELDS.size])
    (checksum,) = _CHECKSUM.unpack_from(data, _FIELDS.size)
    _, version, _, header_size, buffer_count, body_size = _FIELDS.unpack(fields)
    if zlib.crc32(fields) != checksum:
        raise _malformed("a frame's preamble is damaged: its checksum does not match")
    if version != _VERSION:
        raise _malformed(f"a frame of layout version {version} came; this side reads {_VERSION}")
    return Preamble(header_size, buffer_count, body_size)


def read_table(preamble: Preamble, table: bytes | bytearray | memoryview) -> list[int]:
    """The lengths of the buffers.

    Raises:
        ProtocolError: ``malformed``: the lengths do not add up to the frame's body.
    """
    sizes = list(struct.unpack(f"<{preamble.buffer_count}Q", table))
    expected = preamble.body_size - preamble.header_size - preamble.table_size
    if sum(sizes) != expected:
        raise _malformed(
            f"a frame's buffer table adds up to {sum(sizes):,} bytes; its body has {expected:,}"
        )
    return sizes


def _malformed(message: str) -> ProtocolError:
    return ProtocolError(ErrorCode.MALFORMED, message)
