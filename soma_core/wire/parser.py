"""MessageParser: bytes in, messages of both dialects out; it does no input or output itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.wire.frames import (
    MAGIC,
    PREAMBLE_SIZE,
    EntryFields,
    EntryKind,
    FrameError,
    Preamble,
    TableEntry,
    preamble_fields,
    read_table,
)
from soma_core.wire.message import Dialect, Message, as_message

_VARIABLE = "SOMA_LIMITS"
_INLINE = int(EntryKind.INLINE)
_MAP = int(EntryKind.MAP)
_MIB = 1 << 20
_FRAME = Dialect.FRAME
_LINE = Dialect.LINE
_BLANK = b" \t\r\n\x0b\x0c"
_BOM = b"\xef\xbb\xbf"


class StreamLimits(BaseModel):
    """The largest messages that are accepted, in bytes.

    Attributes:
        line: A line.
        header: The map of a frame, with its buffer table.
        body: A frame, buffers included.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    line: int = Field(default=256 * _MIB, ge=1)
    header: int = Field(default=1024 * _MIB, ge=1)
    body: int = Field(default=1 << 40, ge=1)

    @classmethod
    def from_environment(cls) -> Self:
        """Those of ``SOMA_LIMITS``, which a daemon is started with: ``{"header": 1000000}``.

        Raises:
            ValidationError: It is no JSON object of such limits.
        """
        return cls.model_validate_json(os.environ.get(_VARIABLE, "{}"))

    def as_environment(self) -> dict[str, str]:
        """The variable that gives a worker the same limits; none if they are the default."""
        text = self.model_dump_json(exclude_defaults=True)
        return {} if text == "{}" else {_VARIABLE: text}


Take = Callable[[TableEntry], Any]


def _share_nothing(entry: TableEntry) -> None:
    """For a channel without shared memory: offers are ignored, and nothing can be lent."""
    if entry.kind in (EntryKind.SHARED, EntryKind.MAP):
        raise _malformed("a frame names shared memory, which this channel does not have")


class MessageParser:
    """Finds the messages in a stream of bytes.

    Args:
        limits: The largest messages to accept.
        take: Acts on the entries of a frame that are not inline: returns the bytes that an
            entry lends, or None if it is no buffer.

    Attributes:
        pending: What was fed and is not used yet.
        ended: Whether nothing more is fed.
        target: Where bytes may be read to directly, instead of being fed; empty if nowhere.
        finished: Whether no further message can come.
    """

    def __init__(self, limits: StreamLimits, take: Take = _share_nothing) -> None:
        self._limits = limits
        self._most_before_buffers = PREAMBLE_SIZE + limits.header
        self._longest_frame = PREAMBLE_SIZE + limits.body
        self._take = take
        self._filling: _Filling | None = None
        self._to_skip = 0
        self._skips_line = False
        self._scanned = 0
        self._used = 0
        self.pending = bytearray()
        self.ended = False
        self.target = memoryview(b"")
        self.finished = False

    def feed(self, data: memoryview) -> Message | None:
        """Take bytes that were read.

        Args:
            data: The bytes; none at the end of the stream.

        Returns:
            The next message, or None if more bytes are needed.

        Raises:
            ProtocolError: As :meth:`next_message`.
        """
        chunk = bytes(data)
        between_messages = not (self.pending or self._to_skip or self._skips_line or self.ended)
        if between_messages and chunk.startswith(MAGIC):
            try:
                message = self._frame(chunk)
            finally:
                if self._used < len(chunk):
                    self.pending += chunk[self._used :]
            return message if self._filling is None else self.next_message()
        if self.finished:
            return None
        if not chunk:
            self.ended = True
        self.pending += chunk
        return self.next_message()

    def filled(self, count: int) -> Message | None:
        """Like :meth:`feed`, for bytes that were read into the target.

        Args:
            count: How many.
        """
        self.target = self.target[count:]
        if not count:
            self.ended = True
        return self.next_message()

    def next_message(self) -> Message | None:
        """The next message, or None if more bytes are needed.

        Raises:
            ProtocolError: ``malformed`` or ``too_large``. Call again to go on after it.
        """
        while True:
            if self._filling is not None:
                return self._fill(self._filling)
            if not self._skip():
                return None
            if not self.pending:
                self.finished = self.ended
                return None
            start = self.pending[: len(MAGIC)]
            if start == MAGIC:
                message = self._pending_frame()
                if self._filling is None:
                    return message
            elif MAGIC.startswith(start) and not self.ended:
                return None
            else:
                found, message = self._line()
                if message is not None or not found:
                    return message

    def _pending_frame(self) -> Message | None:
        try:
            with memoryview(self.pending) as view:
                return self._frame(view)
        finally:
            del self.pending[: self._used]

    def _frame(self, view: bytes | memoryview) -> Message | None:
        """Read the frame that a view starts with, or go on with its buffers as they come; what
        was used of the view is noted, whether or not there is a message."""
        self._used = 0
        available = len(view)
        if available < PREAMBLE_SIZE:
            self._require_more(view)
            return None
        try:
            header_size, table_size, body_size = preamble_fields(view)
        except FrameError:
            self._lose(view)
            raise
        table = PREAMBLE_SIZE + header_size
        start = table + table_size
        end = PREAMBLE_SIZE + body_size
        try:
            if start > end or start > self._most_before_buffers or end > self._longest_frame:
                self._refuse(Preamble(header_size, table_size, body_size))
            if available < start:
                self._require_more(view)
                return None
            if table == end:
                self._used = end
                return as_message((bytes(view[PREAMBLE_SIZE:table]), (), _FRAME))
            entries = read_table(bytes(view[table:start]), end - start)
        except FrameError:
            self._used = PREAMBLE_SIZE
            self._to_skip = body_size
            raise
        header = bytes(view[PREAMBLE_SIZE:table])
        if available < end:
            self._used = start
            self._filling = _Filling(header, entries)
            return None
        self._used = end
        inline = []
        for kind, _, _, size in entries:
            if kind == _INLINE:
                inline.append(bytearray(view[start : start + size]))
                start += size
        if len(inline) == len(entries):
            return as_message((header, inline, _FRAME))
        return self._message(header, entries, inline)

    def _require_more(self, view: bytes | memoryview) -> None:
        """More of a frame must come; it cannot, once the stream has ended."""
        if self.ended:
            self._lose(view)
            raise _malformed("the stream ended in the middle of a frame")

    def _lose(self, view: bytes | memoryview) -> None:
        """Where the next message starts is unknown: nothing more can be read."""
        self._used = len(view)
        self.ended = True

    def _refuse(self, preamble: Preamble) -> NoReturn:
        """Refuse a frame by what its preamble declares, before anything is allocated."""
        before_buffers = preamble.header_size + preamble.table_size
        if before_buffers > preamble.body_size:
            raise _malformed("a frame's map and buffer table are longer than its body")
        if before_buffers > self._limits.header:
            raise _too_large("map", "header", before_buffers, self._limits.header)
        raise _too_large("body", "body", preamble.body_size, self._limits.body)

    def _message(self, header: bytes, entries: Sequence[EntryFields], inline: list[Any]) -> Message:
        """A message of a frame's parts."""
        following = iter(inline)
        buffers: list[Any] = []
        try:
            for entry in entries:
                kind = entry[0]
                buffer = next(following) if kind == _INLINE else self._take(TableEntry(*entry))
                if kind == _MAP:
                    header = buffer
                elif buffer is not None:
                    buffers.append(buffer)
        except ProtocolError:
            self._pass_over(entries[entries.index(entry) + 1 :])
            raise
        if len(header) > self._limits.header:
            raise _too_large("map", "header", len(header), self._limits.header)
        return as_message((header, buffers, _FRAME))

    def _pass_over(self, entries: Sequence[EntryFields]) -> None:
        """Take what a refused frame lends besides: nobody reads it, and so it is given back."""
        for entry in entries:
            if entry[0] != _INLINE:
                with suppress(ProtocolError):
                    self._take(TableEntry(*entry))

    def _fill(self, filling: _Filling) -> Message | None:
        """Move pending bytes into the buffers of a frame, and let the rest be read directly."""
        while not self.target:
            try:
                buffer = filling.next_buffer()
            except MemoryError as error:
                self._filling, self._to_skip = None, filling.bytes_left
                raise FrameError(ErrorCode.TOO_LARGE, str(error)) from None
            if buffer is None:
                self._filling = None
                return self._message(filling.header, filling.entries, filling.buffers)
            here = min(len(self.pending), buffer.nbytes)
            buffer[:here] = self.pending[:here]
            del self.pending[:here]
            self.target = buffer[here:]
        if self.ended:
            self._filling, self.target = None, memoryview(b"")
            raise _malformed("the stream ended in the middle of a frame")
        return None

    def _skip(self) -> bool:
        """Drop what belongs to a message that was refused; whether all of it is gone."""
        if self._to_skip:
            here = min(len(self.pending), self._to_skip)
            del self.pending[:here]
            self._to_skip -= here
        if self._skips_line:
            end = self.pending.find(b"\n")
            self._skips_line = end < 0
            del self.pending[: len(self.pending) if end < 0 else end + 1]
        if self.ended:
            self._to_skip, self._skips_line = 0, False
        return not (self._to_skip or self._skips_line)

    def _line(self) -> tuple[bool, Message | None]:
        """Whether there is a whole line, and the message in it; a blank line has none."""
        end = self.pending.find(b"\n", self._scanned)
        if end < 0 and self.ended:
            end = len(self.pending)
        if max(end, len(self.pending) if end < 0 else 0) > self._limits.line:
            self._scanned, self._skips_line = 0, True
            raise self._line_too_long()
        if end < 0:
            self._scanned = len(self.pending)
            return False, None
        self._scanned = 0
        text = bytes(self.pending[:end]).strip(_BLANK).removeprefix(_BOM).strip(_BLANK)
        del self.pending[: end + 1]
        return True, as_message((text, (), _LINE)) if text else None

    def _line_too_long(self) -> ProtocolError:
        return ProtocolError(
            ErrorCode.TOO_LARGE,
            f"a line is longer than the limit of {self._limits.line:,} bytes; send large data as "
            "frames, or raise the limit 'line'",
        )


class _Filling:
    """A frame whose inline buffers are still to come."""

    def __init__(self, header: bytes, entries: Sequence[EntryFields]) -> None:
        self.header, self.entries = header, entries
        self.buffers: list[memoryview] = []
        self._sizes = [size for kind, _, _, size in entries if kind == _INLINE]

    @property
    def bytes_left(self) -> int:
        """The bytes of the buffers that have no memory yet."""
        return sum(self._sizes[len(self.buffers) :])

    def next_buffer(self) -> memoryview | None:
        """Memory for the next buffer; None if all of them have some.

        Raises:
            MemoryError: There is none; the text says how much was needed.
        """
        if len(self.buffers) == len(self._sizes):
            return None
        size = self._sizes[len(self.buffers)]
        try:
            self.buffers.append(np.empty(size, np.uint8).data)
        except (MemoryError, ValueError):
            raise MemoryError(f"there is no memory for a buffer of {size:,} bytes") from None
        return self.buffers[-1]


def _too_large(what: str, option: str, size: int, limit: int) -> FrameError:
    return FrameError(
        ErrorCode.TOO_LARGE,
        f"a frame's {what} has {size:,} bytes; the limit is {limit:,}: raise the limit {option!r}",
    )


def _malformed(message: str) -> FrameError:
    return FrameError(ErrorCode.MALFORMED, message)
