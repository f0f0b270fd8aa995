"""Zip archives whose members lie in them uncompressed, as torch's files and checkpoints are."""

from __future__ import annotations

import io
import zipfile
from typing import NamedTuple

_LONGEST_DIRECTORY = (
    4 << 20
)  # bytes; each entry in it becomes an object of about ten times its size
_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_END_SIZE, _END64_SIZE, _LOCATOR64_SIZE = 22, 56, 20
_LOCAL, _LOCAL_SIZE = b"PK\x03\x04", 30
_ENCRYPTED = 1


class Member(NamedTuple):
    """One member of an archive.

    Attributes:
        content: Its bytes, where they lie in the archive.
        checksum: The CRC32 that the archive says they have.
    """

    content: memoryview
    checksum: int


def read_archive(data: bytes) -> dict[str, Member]:
    """The members of a zip archive by name, which together are no longer than the archive.

    Raises:
        ValueError: It is no such archive.
    """
    size = _directory_size(data)
    if size > _LONGEST_DIRECTORY:
        raise ValueError(
            f"the archive has a directory of {size:,} bytes; the most is {_LONGEST_DIRECTORY:,}"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"it is not a zip archive: {error}") from None
    if sum(entry.file_size for entry in entries) > len(data):
        raise ValueError("the members of the archive are longer than itself")
    whole = memoryview(data)
    return {entry.filename: Member(_content(whole, entry), entry.CRC) for entry in entries}


def _directory_size(data: bytes) -> int:
    """What the end of an archive says of its directory, as :mod:`zipfile` will read it."""
    end = data[-_END_SIZE:]
    if not end.startswith(_END) or end[-2:] != b"\0\0":
        raise ValueError("it does not end as a zip archive without a comment does")
    locator = len(data) - _END_SIZE - _LOCATOR64_SIZE
    if not data.startswith(_LOCATOR64, max(locator, 0)):
        return int.from_bytes(end[12:16], "little")
    end64 = int.from_bytes(data[locator + 8 : locator + 16], "little")
    if end64 != locator - _END64_SIZE or not data.startswith(_END64, end64):
        raise ValueError("the directory of the archive is not where its end record puts it")
    return int.from_bytes(data[end64 + 40 : end64 + 48], "little")


def _content(whole: memoryview, entry: zipfile.ZipInfo) -> memoryview:
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _ENCRYPTED:
        raise ValueError(f"the member {entry.filename!r} is compressed or encrypted")
    header = whole[entry.header_offset : entry.header_offset + _LOCAL_SIZE]
    if len(header) != _LOCAL_SIZE or header[:4] != _LOCAL or entry.header_offset < 0:
        raise ValueError(f"the member {entry.filename!r} has no header")
    lengths = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    start = entry.header_offset + _LOCAL_SIZE + sum(lengths)
    content = whole[start : start + entry.file_size]
    if len(content) != entry.file_size:
        raise ValueError(f"the member {entry.filename!r} is cut off")
    return content
