"""The layout of a frame, byte by byte."""

from __future__ import annotations

import struct
import zlib

import pytest

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.wire import frames
from soma_core.wire.frames import MAGIC, PREAMBLE_SIZE, EntryKind, Preamble, TableEntry


def inline(size: int) -> TableEntry:
    return TableEntry(EntryKind.INLINE, 0, 0, size)


def test_a_frame_is_laid_out_as_documented() -> None:
    shared = TableEntry(EntryKind.SHARED, 7, 8, 9)
    start = frames.write_frame(b"{}", [inline(3), shared])
    fields = b"\x93SOMA" + b"\x02" + b"\x00\x00" + struct.pack("<IIQ", 2, 2, 2 + 48 + 3)
    table = struct.pack("<IIQQ", 0, 0, 0, 3) + struct.pack("<IIQQ", 1, 7, 8, 9)
    assert start == fields + struct.pack("<I", zlib.crc32(fields)) + b"{}" + table
    assert PREAMBLE_SIZE == 28


def test_the_magic_cannot_start_text() -> None:
    with pytest.raises(UnicodeDecodeError):
        MAGIC[:1].decode("utf-8")


def test_a_preamble_reads_back() -> None:
    entries = [inline(2), TableEntry(EntryKind.SHARED, 1, 2, 2**40), inline(5)]
    start = frames.write_frame(b"header", entries)
    preamble = frames.read_preamble(start)
    assert preamble == Preamble(header_size=6, table_size=72, body_size=6 + 72 + 7)
    assert frames.read_table(start[-preamble.table_size :], preamble.inline_size) == entries


def test_only_inline_buffers_count_as_bytes_of_the_body() -> None:
    entries = [TableEntry(kind, 1, 1, 1000) for kind in EntryKind if kind is not EntryKind.INLINE]
    start = frames.write_frame(b"", entries)
    assert frames.read_preamble(start).body_size == 5 * frames.ENTRY_SIZE


@pytest.mark.parametrize("position", range(PREAMBLE_SIZE))
def test_a_flipped_bit_anywhere_in_the_preamble_is_noticed(position: int) -> None:
    damaged = bytearray(frames.write_frame(b"{}", [inline(3)]))
    damaged[position] ^= 0x10
    with pytest.raises(ProtocolError) as caught:
        frames.read_preamble(damaged)
    assert caught.value.code is ErrorCode.MALFORMED


def test_another_version_of_the_layout_is_refused_by_number() -> None:
    fields = struct.pack("<5sBHIIQ", MAGIC, 1, 0, 2, 0, 2)
    with pytest.raises(ProtocolError, match=r"peer speaks layout 1 .* this side layout 2; upgrade"):
        frames.read_preamble(fields + struct.pack("<I", zlib.crc32(fields)))


@pytest.mark.parametrize("sizes", [(3, 4), (3, 2**63), (2**64 - 1, 2**64 - 1), (0, 0), (8, 0)])
def test_a_table_that_does_not_add_up_is_refused(sizes: tuple[int, int]) -> None:
    table = b"".join(struct.pack("<IIQQ", 0, 0, 0, size) for size in sizes)
    with pytest.raises(ProtocolError, match="add up to") as caught:
        frames.read_table(table, 5)
    assert caught.value.code is ErrorCode.MALFORMED


def test_an_entry_of_an_unknown_kind_is_refused_by_number() -> None:
    with pytest.raises(ProtocolError, match="unknown kind 6") as caught:
        frames.read_table(struct.pack("<IIQQ", 6, 0, 0, 0), 0)
    assert caught.value.code is ErrorCode.MALFORMED


def test_a_table_without_buffers_is_empty() -> None:
    assert frames.read_table(b"", 0) == []
