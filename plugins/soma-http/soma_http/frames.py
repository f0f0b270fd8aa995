"""The frames of an open WebSocket (RFC 6455), read and written by either side.

websockets makes the handshake. Its parser takes some 25 us of Python for each frame, which was most
of what a call cost: this one reads a frame that came whole in one step.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from websockets.frames import CloseCode, Opcode

try:
    from websockets.speedups import apply_mask
except ImportError:  # no compiled code for this machine
    from websockets.utils import apply_mask

__all__ = ["BadFrame", "Frame", "FrameReader", "apply_mask", "frame_header"]

Bytes = bytes | bytearray | memoryview

_FIN, _MASKED = 0x80, 0x80
_SHORT, _MEDIUM, _LONG = 125, 126, 127
_MOST_MEDIUM = (1 << 16) - 1
_MASK = 4  # bytes
_KNOWN = frozenset(map(int, Opcode))
_CONT, _CLOSE = int(Opcode.CONT), int(Opcode.CLOSE)  # an enumeration is slow to look into


class BadFrame(Exception):
    """What came is no frame that may come here.

    Args:
        code: The code to close the WebSocket with.
        text: Why.
    """

    def __init__(self, code: CloseCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class Frame(NamedTuple):
    """One frame.

    Attributes:
        opcode: Its kind. A control frame may come between the fragments of a message.
        last: Whether it ends a message.
        payload: What it holds, unmasked.
    """

    opcode: int
    last: bool
    payload: Bytes


class FrameReader:
    """Cuts what comes into frames.

    Args:
        masked: Whether frames must be masked, as those of clients, or must not be.
        largest: The largest message to accept, in bytes.
    """

    def __init__(self, *, masked: bool, largest: int) -> None:
        self._masked = masked
        self._largest = largest
        self._start = bytearray()  # of a frame that has not come whole; it grows as bytes come
        self._needed = 0  # bytes of that frame, or of what is known of it
        self._message = -1  # bytes of the current message so far; none is open below zero

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """The frames that what came completes.

        Raises:
            BadFrame: They break the protocol, or are too large.
        """
        view = memoryview(data)
        if self._start:
            self._start += view
            if len(self._start) < self._needed:
                return
            view, self._start = memoryview(self._start), bytearray()
        while view:
            header = self._header(view)
            needed = 0 if header is None else header[1] + header[2]
            if header is None or len(view) < needed:
                self._start, self._needed = bytearray(view), needed
                return
            yield self._frame(view, header)
            view = view[needed:]

    def _header(self, view: Bytes) -> tuple[int, int, int] | None:
        """First byte, size of the header and of the payload; None if too little has come."""
        if len(view) < 2:
            return None
        first, second = view[0], view[1]
        size, start = second & ~_MASKED, 2
        if size > _SHORT:
            start = 4 if size == _MEDIUM else 10
            if len(view) < start:
                return None
            form = ">H" if size == _MEDIUM else ">Q"
            (size,) = struct.unpack_from(form, view, 2)
        self._check(first, second, size)
        return first, start + (_MASK if self._masked else 0), size

    def _check(self, first: int, second: int, size: int) -> None:
        opcode, last = first & 0x0F, bool(first & _FIN)
        if opcode not in _KNOWN or first & 0x70:
            raise BadFrame(CloseCode.PROTOCOL_ERROR, "reserved bits or an unknown opcode")
        if bool(second & _MASKED) is not self._masked:
            raise BadFrame(
                CloseCode.PROTOCOL_ERROR, "a frame is masked where it must not be, or not"
            )
        if opcode >= _CLOSE:
            if size > _SHORT or not last:
                raise BadFrame(CloseCode.PROTOCOL_ERROR, "a control frame is long or a fragment")
            return
        if (opcode == _CONT) is not (self._message >= 0):
            raise BadFrame(CloseCode.PROTOCOL_ERROR, "a fragment where none belongs")
        if max(self._message, 0) + size > self._largest:
            raise BadFrame(
                CloseCode.MESSAGE_TOO_BIG, f"a message has more than {self._largest:,} bytes"
            )

    def _frame(self, view: memoryview, header: tuple[int, int, int]) -> Frame:
        first, start, size = header
        payload: Bytes = view[start : start + size]
        if self._masked:
            payload = apply_mask(payload, bytes(view[start - _MASK : start]))
        opcode, last = first & 0x0F, bool(first & _FIN)
        if opcode < _CLOSE:
            self._message = -1 if last else max(self._message, 0) + size
        return Frame(opcode, last, payload)


def frame_header(opcode: int, size: int, *, last: bool = True, masked: bool = False) -> bytes:
    """What comes before the payload of a frame, and before its mask if it has one."""
    first, mask = opcode | (_FIN if last else 0), _MASKED if masked else 0
    if size <= _SHORT:
        return struct.pack("!BB", first, mask | size)
    if size <= _MOST_MEDIUM:
        return struct.pack("!BBH", first, mask | _MEDIUM, size)
    return struct.pack("!BBQ", first, mask | _LONG, size)
