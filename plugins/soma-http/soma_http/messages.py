"""How a message of soma is one message of a WebSocket: text is a line, binary a frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.streams import (
    FRAME_MAGIC,
    PREAMBLE_SIZE,
    MessageParser,
    StreamLimits,
    frame_parts,
    read_preamble,
)
from soma_core.transport import Dialect, Message

_PIECE = 1 << 20  # bytes of a fragment: what is sent meanwhile, a ping, waits for no more
_BLANK = b" \t\r\n\x0b\x0c"


def is_frame(data: bytes | bytearray | memoryview) -> bool:
    """Whether a message that came is a frame, by its first bytes; anything else is a line."""
    return data[: len(FRAME_MAGIC)] == FRAME_MAGIC


def declared_size(start: bytes | bytearray | memoryview) -> int:
    """How many bytes a frame has, by its preamble.

    Raises:
        ProtocolError: ``malformed``: the preamble is damaged.
    """
    if len(start) < PREAMBLE_SIZE:
        raise ProtocolError(ErrorCode.MALFORMED, "a frame is shorter than its preamble")
    return PREAMBLE_SIZE + read_preamble(start).body_size


def pieces_of(message: Message) -> Iterator[Any]:
    """A message as the fragments of one WebSocket message, none of them large."""
    is_line = message.dialect is Dialect.LINE
    for part in (message.header,) if is_line else frame_parts(message):
        if len(part) <= _PIECE:
            yield part
        else:
            view = memoryview(part)
            yield from (view[start : start + _PIECE] for start in range(0, len(part), _PIECE))


class MessageReader:
    """Reads messages, each of which came whole."""

    def __init__(self, limits: StreamLimits) -> None:
        self._limits = limits
        self._parser = MessageParser(limits)

    def read(self, data: bytes | bytearray | memoryview) -> Message:
        """One message.

        Raises:
            ProtocolError: ``malformed`` or ``too_large``; the next one can be read all the same.
        """
        if not is_frame(data):
            return self._line(data)
        message = None
        try:
            message = self._parser.feed(memoryview(data))
        finally:
            if message is None or self._parser.pending:
                self._parser, message = MessageParser(self._limits), None
        if message is None:
            raise ProtocolError(
                ErrorCode.MALFORMED,
                f"a WebSocket message of {len(data):,} bytes is not one whole frame",
            )
        return message

    def _line(self, data: bytes | bytearray | memoryview) -> Message:
        if len(data) > self._limits.line:
            raise ProtocolError(
                ErrorCode.TOO_LARGE,
                f"a line has {len(data):,} bytes; the limit is {self._limits.line:,}: raise the "
                "limit 'line'",
            )
        return Message(bytes(data).strip(_BLANK), (), Dialect.LINE)
