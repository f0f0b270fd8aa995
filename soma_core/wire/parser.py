"""MessageParser: bytes in, messages of both dialects out; it does no input or output itself."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.wire import frames
from soma_core.wire.frames import EntryKind, FrameError
from soma_core.wire.message import Dialect, Message

__all__ = ["MessageParser", "StreamLimits"]

_INLINE = int(EntryKind.INLINE)
_MIB = 1 << 20
_BLANK = b" \t\r\n\x0b\x0c"
_BOM = b"\xef\xbb\xbf"

_Outcome = Message | ProtocolError | None
_Steps = Generator[_Outcome, None, None]
_Question = Generator[_Outcome, None, bool]


class StreamLimits(BaseModel):
    """The largest messages that are accepted, in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    line: int = Field(default=256 * _MIB, ge=1)
    header: int = Field(default=64 * _MIB, ge=1)
    body: int = Field(default=1 << 40, ge=1)


Take = Callable[[frames.Entry], Any]


def _share_nothing(entry: frames.Entry) -> None:
    """For a channel without shared memory: offers are ignored, and nothing can be lent."""
    if entry.kind == EntryKind.SHARED:
        raise _malformed("a frame names shared memory, which this channel does not have")


class MessageParser:
    """Finds the messages in a stream of bytes.

    Its work is a generator that is resumed when there is more to look at, so that the code
    reads like the grammar of the stream.

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
        self._longest = min(limits.header, limits.body)
        self._take = take
        self._between_messages = True
        self.pending = bytearray()
        self.ended = False
        self.target = memoryview(b"")
        self._steps = self._stream()
        self.finished = False

    def feed(self, data: memoryview) -> Message | None:
        """Take bytes that were read, none at the end of the stream; the next message, or None if
        more bytes are needed.

        Raises:
            ProtocolError: As :meth:`next_message`.
        """
        if self._between_messages and not self.pending:
            frame = frames.read_whole(data, self._longest)
            if frame is not None:
                header, inline, entries, end = frame
                if end < len(data):
                    self.pending += data[end:]
                if entries:
                    return self._message(header, entries, inline)
                return Message(header, inline)
        self.pending += data
        if not data:
            self.ended = True
        return self.next_message()

    def filled(self, count: int) -> Message | None:
        """Like :meth:`feed`, for bytes that were read into the target."""
        self.target = self.target[count:]
        if not count:
            self.ended = True
        return self.next_message()

    def next_message(self) -> Message | None:
        """The next message, or None if more bytes are needed.

        Raises:
            ProtocolError: ``malformed`` or ``too_large``. Call again to go on after it.
        """
        if self._between_messages:
            if not self.pending and not self.ended:
                return None
            with memoryview(self.pending) as view:
                frame = frames.read_whole(view, self._longest)
            if frame is not None:
                header, inline, entries, end = frame
                del self.pending[:end]
                return self._message(header, entries, inline)
        outcome = next(self._steps)
        if isinstance(outcome, ProtocolError):
            raise outcome
        return outcome

    def _stream(self) -> _Steps:
        while (yield from self._has(1)):
            self._between_messages = False
            if (yield from self._starts_frame()):
                yield from self._frame()
            else:
                yield from self._line()
            self._between_messages = True
        self.finished = True
        self._between_messages = False
        while True:
            yield None

    def _has(self, count: int) -> _Question:
        """Whether so many bytes are here, or will be before the stream ends."""
        while len(self.pending) < count:
            if self.ended:
                return False
            yield None
        return True

    def _starts_frame(self) -> _Question:
        for length in range(1, len(frames.MAGIC) + 1):
            if not (yield from self._has(length)):
                return False
            if not self.pending.startswith(frames.MAGIC[:length]):
                return False
        return True

    def _line(self) -> _Steps:
        scanned = 0
        while (end := self.pending.find(b"\n", scanned)) < 0 and not self.ended:
            scanned = len(self.pending)
            if scanned > self._limits.line:
                break
            yield None
        if end < 0 and self.ended:
            end = len(self.pending)
        if end < 0 or end > self._limits.line:
            yield self._line_too_long()
            yield from self._skip_line()
            return
        text = bytes(self.pending[:end]).strip(_BLANK).removeprefix(_BOM).strip(_BLANK)
        del self.pending[: end + 1]
        if text:
            self._between_messages = True
            yield Message(text, (), Dialect.LINE)

    def _skip_line(self) -> _Steps:
        while (end := self.pending.find(b"\n")) < 0:
            self.pending.clear()
            if self.ended:
                return
            yield None
        del self.pending[: end + 1]

    def _line_too_long(self) -> ProtocolError:
        return ProtocolError(
            ErrorCode.TOO_LARGE,
            f"a line is longer than the limit of {self._limits.line:,} bytes; send large arrays "
            "as frames, or raise the limit",
        )

    def _frame(self) -> _Steps:
        if not (yield from self._has(frames.PREAMBLE_SIZE)):
            yield from self._cut_off()
            return
        try:
            preamble = frames.read_preamble(self.pending)
        except ProtocolError as error:
            yield from self._lost(error)
            return
        refusal = self._refusal(preamble)
        if refusal is None:
            yield from self._frame_body(preamble)
        else:
            yield from self._skip_frame(preamble, refusal)

    def _frame_body(self, preamble: frames.Preamble) -> _Steps:
        table = frames.PREAMBLE_SIZE + preamble.header_size
        start = table + preamble.table_size
        if not (yield from self._has(start)):
            yield from self._cut_off()
            return
        try:
            entries = frames.read_table(preamble, self.pending[table:start])
        except ProtocolError as error:
            yield from self._skip_frame(preamble, error)
            return
        header = bytes(self.pending[frames.PREAMBLE_SIZE : table])
        del self.pending[:start]
        inline: list[memoryview] = []
        for entry in entries:
            if entry.kind == _INLINE:
                buffer = _allocate(entry.size)
                if buffer is None:
                    yield from self._skip_inline(entries, len(inline), entry.size)
                    return
                inline.append(buffer)
                if not (yield from self._fill(inline[-1])):
                    yield from self._cut_off()
                    return
        self._between_messages = True
        try:
            yield self._message(header, entries, inline)
        except ProtocolError as error:
            yield error

    def _skip_inline(self, entries: list[frames.Entry], here: int, size: int) -> _Steps:
        """Drop the inline buffers of a frame from one on for which there is no memory."""
        yield FrameError(ErrorCode.TOO_LARGE, f"there is no memory for a buffer of {size:,} bytes")
        sizes = [entry.size for entry in entries if entry.kind == _INLINE]
        yield from self._skip(sum(sizes[here:]))

    def _message(
        self, header: bytes, entries: Sequence[tuple[int, int, int, int]], inline: list[Any]
    ) -> Message:
        """A message of a frame's parts; without entries, all of its buffers are inline."""
        if not entries:
            return Message(header, inline)
        inline.reverse()
        buffers: list[Any] = []
        for fields in entries:
            entry = frames.Entry._make(fields)
            buffer = inline.pop() if entry.kind == _INLINE else self._take(entry)
            if buffer is not None:
                buffers.append(buffer)
        return Message(header, buffers)

    def _fill(self, buffer: memoryview) -> _Question:
        """Move pending bytes into a buffer, and let the rest be read into it directly."""
        here = min(len(self.pending), buffer.nbytes)
        buffer[:here] = self.pending[:here]
        del self.pending[:here]
        self.target = buffer[here:]
        while self.target:
            if self.ended:
                self.target = memoryview(b"")
                return False
            yield None
        return True

    def _refusal(self, preamble: frames.Preamble) -> ProtocolError | None:
        """Why a frame is refused by what its preamble declares, before anything is allocated."""
        before_buffers = preamble.header_size + preamble.table_size
        if before_buffers > preamble.body_size:
            return _malformed("a frame's header and buffer table are longer than its body")
        if before_buffers > self._limits.header:
            return _too_large("header", before_buffers, self._limits.header)
        if preamble.body_size > self._limits.body:
            return _too_large("body", preamble.body_size, self._limits.body)
        return None

    def _skip_frame(self, preamble: frames.Preamble, problem: ProtocolError) -> _Steps:
        yield problem
        yield from self._skip(frames.PREAMBLE_SIZE + preamble.body_size)

    def _skip(self, left: int) -> _Steps:
        while left > len(self.pending):
            left -= len(self.pending)
            self.pending.clear()
            if self.ended:
                return
            yield None
        del self.pending[:left]

    def _cut_off(self) -> _Steps:
        yield from self._lost(_malformed("the stream ended in the middle of a frame"))

    def _lost(self, problem: ProtocolError) -> _Steps:
        """Where the next message starts is unknown: nothing more can be read."""
        self.pending.clear()
        self.ended = True
        yield problem


def _allocate(size: int) -> memoryview | None:
    try:
        return np.empty(size, np.uint8).data
    except (MemoryError, ValueError):
        return None


def _too_large(what: str, size: int, limit: int) -> FrameError:
    return FrameError(
        ErrorCode.TOO_LARGE, f"a frame's {what} has {size:,} bytes; the limit is {limit:,}"
    )


def _malformed(message: str) -> FrameError:
    return FrameError(ErrorCode.MALFORMED, message)
