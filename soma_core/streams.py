"""StreamChannel: both dialects of the protocol over any byte stream."""

from __future__ import annotations

import os
import select
import socket
import stat
import struct
import time
from abc import ABC, abstractmethod
from contextlib import suppress

from soma_core.errors import ChannelClosed
from soma_core.forks import close_in_forked_child
from soma_core.memory import THRESHOLD, SharedMemory
from soma_core.parser import MessageParser, StreamLimits
from soma_core.protocol.frames import Entry, write_frame
from soma_core.protocol.frames import inline as inline_entry
from soma_core.transport import Channel, Dialect, Message

__all__ = [
    "ByteStream",
    "PipeStream",
    "SharedMemory",
    "SocketStream",
    "StreamChannel",
    "StreamLimits",
    "open_stream",
]

_CHUNK = 1 << 16
_JOIN_BELOW = 1 << 16


class ByteStream(ABC):
    """Bytes in and out: what StreamChannel needs of a socket or a pair of pipes."""

    @abstractmethod
    def read_into(self, view: memoryview, timeout: float | None) -> int:
        """Read at least one byte, at most what fits; 0 at the end of the stream.

        Raises:
            TimeoutError: Nothing came in time.
            OSError: The stream failed.
        """

    @abstractmethod
    def write(self, view: bytes | memoryview, timeout: float | None) -> int:
        """Write at least one byte and return how many.

        Raises:
            TimeoutError: Nothing could be written in time.
            OSError: The stream failed.
        """

    @abstractmethod
    def close(self) -> None:
        """Close it and wake a thread that reads or writes; a second call does nothing."""


class SocketStream(ByteStream):
    """A connected stream socket, which it owns.

    The socket blocks in the kernel in slices, since a plain call costs less than polling first.
    """

    _SLICE = 0.2

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        slice_of_time = _timeval(self._SLICE)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, slice_of_time)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, slice_of_time)
        self._socket = connection
        close_in_forked_child(connection)

    def read_into(self, view: memoryview, timeout: float | None) -> int:
        try:
            if timeout is not None and timeout < self._SLICE:
                _wait(self._socket.fileno(), select.POLLIN, timeout)
            return self._socket.recv_into(view)
        except BlockingIOError:
            raise TimeoutError from None

    def write(self, view: bytes | memoryview, timeout: float | None) -> int:
        try:
            if timeout is not None and timeout < self._SLICE:
                _wait(self._socket.fileno(), select.POLLOUT, timeout)
            return self._socket.send(view)
        except BlockingIOError:
            raise TimeoutError from None

    def close(self) -> None:
        with suppress(OSError):  # the other end was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("@ll", whole, int((seconds - whole) * 1_000_000))


class PipeStream(ByteStream):
    """A pair of file descriptors, one to read and one to write, which it owns."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        self._closed = False

    def read_into(self, view: memoryview, timeout: float | None) -> int:
        _wait(self._read_fd, select.POLLIN, timeout)
        return os.readv(self._read_fd, [view])

    def write(self, view: bytes | memoryview, timeout: float | None) -> int:
        _wait(self._write_fd, select.POLLOUT, timeout)
        return os.write(self._write_fd, view[:_CHUNK] if timeout is not None else view)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for fd in {self._read_fd, self._write_fd}:
                os.close(fd)


def open_stream(read_fd: int, write_fd: int) -> ByteStream:
    """The stream over two descriptors, which it owns: one socket under both, or anything else."""
    if not (_is_socket(read_fd) and os.path.sameopenfile(read_fd, write_fd)):
        return PipeStream(read_fd, write_fd)
    os.close(write_fd)
    return SocketStream(socket.socket(fileno=read_fd))


def _is_socket(fd: int) -> bool:
    return stat.S_ISSOCK(os.fstat(fd).st_mode)


def _wait(fd: int, event: int, timeout: float | None) -> None:
    """Wait until a descriptor is ready.

    Raises:
        TimeoutError: It was not in time.
    """
    if timeout is None:
        return
    poller = select.poll()
    poller.register(fd, event)
    if not poller.poll(max(0.0, timeout) * 1000):
        raise TimeoutError


class _Clock:
    """What is left of a timeout."""

    __slots__ = ("_deadline",)

    def __init__(self, timeout: float | None) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()

    def check(self) -> None:
        """Raise TimeoutError when the time is over."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise TimeoutError


class StreamChannel(Channel):
    """Messages over a byte stream, in both dialects.

    Args:
        stream: The bytes in and out; the channel owns it.
        limits: The largest messages that it accepts.
        memory: Shared memory for large buffers; the channel owns it.
    """

    def __init__(
        self,
        stream: ByteStream,
        limits: StreamLimits | None = None,
        memory: SharedMemory | None = None,
    ) -> None:
        self._stream = stream
        self._memory = memory
        limits = limits or StreamLimits()
        self._parser = (
            MessageParser(limits) if memory is None else MessageParser(limits, memory.take)
        )
        self._scratch = memoryview(bytearray(_CHUNK))
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._stream.close()
            if self._memory is not None:
                self._memory.close()

    def send(self, message: Message, timeout: float | None = None) -> None:
        clock = _Clock(timeout)
        started = False
        try:
            for part in self._parts(message):
                sent = self._write(part, clock)
                started = True
                if sent < len(part):
                    self._write_rest(memoryview(part)[sent:], clock)
        except BaseException:
            if started:  # the other end could not tell the rest of this message from the next
                self.close()
            raise

    def _write_rest(self, view: memoryview, clock: _Clock) -> None:
        while view:
            view = view[self._write(view, clock) :]

    def _write(self, data: bytes | memoryview, clock: _Clock) -> int:
        while True:
            if self._closed:
                raise ChannelClosed("the channel is closed")
            try:
                return self._stream.write(data, clock.left())
            except TimeoutError:
                clock.check()
            except (OSError, ValueError) as error:
                raise ChannelClosed(f"the other end closed the channel ({error})") from None

    def _parts(self, message: Message) -> list[bytes | memoryview]:
        """What to write: one piece for a small message, large buffers apart."""
        if message.dialect is Dialect.LINE:
            return [message.header + b"\n"]
        entries: list[Entry] = [] if self._memory is None else self._memory.pending()
        inline: list[memoryview] = []
        for buffer in message.buffers:
            view = memoryview(buffer)
            entry = self._lend(view)
            if entry is None:
                entry = inline_entry(view)
                if view.nbytes:
                    inline.append(view.cast("B"))
            entries.append(entry)
        start = write_frame(message.header, entries)
        if sum([view.nbytes for view in inline]) < _JOIN_BELOW:
            return [b"".join((start, *inline))]
        return [start, *inline]

    def _lend(self, view: memoryview) -> Entry | None:
        if self._memory is None or view.nbytes < THRESHOLD:
            return None
        return self._memory.lend(view)

    def receive(self, timeout: float | None = None) -> Message:
        clock = _Clock(timeout)
        while True:
            message = self._parser.next_message()
            if message is not None:
                return message
            if self._parser.finished:
                raise ChannelClosed("the other end closed the channel")
            self._read_more(clock)

    def _read_more(self, clock: _Clock) -> None:
        target = self._parser.target()
        count = self._read(target or self._scratch, clock)
        if count == 0:
            self._parser.end()
        elif target:
            self._parser.filled(count)
        else:
            self._parser.feed(self._scratch[:count])

    def _read(self, view: memoryview, clock: _Clock) -> int:
        while True:
            if self._closed:
                raise ChannelClosed("the channel is closed")
            try:
                return self._stream.read_into(view, clock.left())
            except TimeoutError:
                clock.check()
            except ConnectionError:
                return 0
            except (OSError, ValueError) as error:
                raise ChannelClosed(f"the channel is closed ({error})") from None
