"""What a client sends over its WebSocket, as bytes for its worker."""

from __future__ import annotations

from typing import Any

from websockets.frames import Opcode

from soma_core.errors import ProtocolError
from soma_core.streams import PREAMBLE_SIZE
from soma_http.frames import Frame
from soma_http.messages import declared_size, is_frame

_NOT_A_FRAME = "a binary message is one whole frame"


class Incoming:
    """Hands on each fragment of a message as it comes.

    It looks at messages so far that the worker can tell where each ends: a text message is one
    line, a binary one is one whole frame of soma.
    """

    def __init__(self) -> None:
        self._text = False  # whether the current message is one
        self._start = bytearray()  # of a binary message whose size is not known yet
        self._left = -1  # bytes of it that are still to come; below zero: not known

    def take(self, frame: Frame) -> Any:
        """The bytes to send to the worker for a fragment, or for a whole message.

        Raises:
            ValueError: A binary message is not one whole frame.
        """
        if frame.opcode != Opcode.CONT:
            self._text = frame.opcode == Opcode.TEXT
        return self._line(frame) if self._text else self._frame(frame)

    def _line(self, frame: Frame) -> bytes:
        # An end of line is blank in JSON, and elsewhere an error either way.
        line = bytes(frame.payload).replace(b"\n", b" ")
        return line + b"\n" if frame.last else line

    def _frame(self, frame: Frame) -> Any:
        data: Any = frame.payload
        if self._left < 0:
            if self._start or not frame.last:
                self._start += data
                if len(self._start) < PREAMBLE_SIZE and not frame.last:
                    return b""
                data, self._start = self._start, bytearray()
            self._left = _declared(data)
        self._left -= len(data)
        if self._left < 0 or (frame.last and self._left):
            raise ValueError(_NOT_A_FRAME)
        if frame.last:
            self._left = -1
        return data


def _declared(data: Any) -> int:
    """How large a message claims to be.

    Raises:
        ValueError: It is no frame.
    """
    if not is_frame(data) or len(data) < PREAMBLE_SIZE:
        raise ValueError(_NOT_A_FRAME)
    try:
        return declared_size(data)
    except ProtocolError:  # the worker says what is wrong with it, and closes
        return len(data)
