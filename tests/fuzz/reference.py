"""A second reader of the stream, written from the documentation alone and with no regard to speed.

It has all bytes at once, which is what makes it simple; MessageParser must find the same in them
however they are cut.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from zlib import crc32

from soma_core.errors import ErrorCode
from soma_core.transport import Dialect
from soma_core.wire.parser import StreamLimits

__all__ = ["Found", "read"]

MAGIC = b"\x93SOMA"
PREAMBLE, ENTRY = 28, 24
INLINE, SHARED, LAST = 0, 1, 4

Found = tuple[Dialect, bytes, tuple[bytes, ...]] | tuple[Dialect, ErrorCode]
"""A message (its dialect, header and buffers), or a refusal (its dialect and code)."""


def read(stream: bytes, limits: StreamLimits) -> Iterator[Found]:
    """What a stream holds, in order, if nothing follows it."""
    while stream:
        if stream.startswith(MAGIC):
            found, stream = _frame(stream, limits)
        else:
            found, stream = _line(stream, limits)
        if found is not None:
            yield found


def _line(stream: bytes, limits: StreamLimits) -> tuple[Found | None, bytes]:
    line, _, rest = stream.partition(b"\n")
    if len(line) > limits.line:
        return (Dialect.LINE, ErrorCode.TOO_LARGE), rest
    blank = b" \t\r\n\x0b\x0c"
    text = line.strip(blank).removeprefix(b"\xef\xbb\xbf").strip(blank)
    return ((Dialect.LINE, text, ()) if text else None), rest


def _frame(stream: bytes, limits: StreamLimits) -> tuple[Found, bytes]:
    malformed, too_large = [
        (Dialect.FRAME, code) for code in (ErrorCode.MALFORMED, ErrorCode.TOO_LARGE)
    ]
    if len(stream) < PREAMBLE:
        return malformed, b""
    _, version, _, header_size, count, body_size, checksum = struct.unpack_from("<5sBHIIQI", stream)
    if crc32(stream[:24]) != checksum or version != 1:
        return malformed, b""
    body, rest = stream[PREAMBLE : PREAMBLE + body_size], stream[PREAMBLE + body_size :]
    before_buffers = header_size + ENTRY * count
    if before_buffers > body_size:
        return malformed, rest
    if before_buffers > limits.header or body_size > limits.body:
        return too_large, rest
    if len(body) < before_buffers:
        return malformed, b""
    entries = list(struct.iter_unpack("<IIQQ", body[header_size:before_buffers]))
    sizes = [size for kind, _, _, size in entries if kind == INLINE]
    if any(kind > LAST for kind, *_ in entries) or before_buffers + sum(sizes) != body_size:
        return malformed, rest
    if len(body) < body_size:
        return malformed, b""
    if any(kind == SHARED for kind, *_ in entries):  # there is no shared memory in a plain stream
        return malformed, rest
    buffers, at = [], before_buffers
    for size in sizes:
        buffers.append(body[at : at + size])
        at += size
    return (Dialect.FRAME, body[:header_size], tuple(buffers)), rest
