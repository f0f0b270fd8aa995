"""StreamChannel: both dialects of the protocol over any byte stream."""

from __future__ import annotations

import os
import select
import socket
import stat
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from time import monotonic, sleep
from typing import NoReturn

from soma_core.channel.forks import close_in_forked_child
from soma_core.channel.recalls import NEVER_AGAIN, NEXT, UPTO, is_recalled, recall
from soma_core.channel.shared_memory import THRESHOLD, SharedMemory
from soma_core.channel.signalled import raise_error_of_handler
from soma_core.channel.watchable import Descriptors, WatchableChannel
from soma_core.errors import ChannelClosed, ProtocolError
from soma_core.wire.frames import EntryFields, EntryKind, TableEntry, write_frame
from soma_core.wire.message import Dialect, Message
from soma_core.wire.parser import MessageParser, StreamLimits

_LINE = Dialect.LINE
_INLINE = int(EntryKind.INLINE)
_NO_SIGNAL = int(getattr(socket, "MSG_NOSIGNAL", 0))  # a host may have SIGPIPE at its default
_NOW = int(socket.MSG_DONTWAIT)
_CHUNK = 1 << 16
_QUOTED = 200  # bytes of what is no message
_JOIN_BELOW = 1 << 16
_WHILE_DECIDING = 0.0001  # seconds between looks at what the other end decides


class ByteStream(ABC):
    """Bytes in and out: what StreamChannel needs of a socket or a pair of pipes.

    A deadline is a time of :func:`time.monotonic`, or None to wait for ever.

    Attributes:
        on_wait: Called now and then while nothing comes, if the stream can.
    """

    on_wait: Callable[[], None] | None = None

    @abstractmethod
    def read_into(self, view: memoryview, deadline: float | None) -> int:
        """Read at least one byte, at most what fits; 0 at the end of the stream.

        Args:
            view: Where the bytes go.
            deadline: Until when to wait for the first of them.

        Raises:
            TimeoutError: Nothing came in time.
            OSError: The stream failed, or was closed.
        """

    @abstractmethod
    def write(self, data: bytes | memoryview, deadline: float | None) -> int:
        """Write at least one byte and return how many.

        Args:
            data: What to write.
            deadline: Until when to wait for room.

        Raises:
            TimeoutError: Nothing could be written in time.
            OSError: The stream failed, or was closed.
        """

    @abstractmethod
    def close(self) -> None:
        """Close it and wake a thread that reads or writes; a second call does nothing."""

    @property
    def descriptors(self) -> Descriptors | None:
        """What an event loop can watch; None if there is nothing."""
        return None

    def read_now(self, view: memoryview) -> int | None:
        """Read what has come, without waiting: as :meth:`read_into`, and None if it is nothing.

        Args:
            view: Where the bytes go.
        """
        try:
            return self.read_into(view, 0.0)
        except TimeoutError:
            return None

    def write_now(self, data: bytes | memoryview) -> int:
        """Write what can be written without waiting, and return how much; it may be nothing.

        Args:
            data: What to write.
        """
        try:
            return self.write(data, 0.0)
        except TimeoutError:
            return 0


class SocketStream(ByteStream):
    """A connected stream socket, which it owns.

    The socket blocks in the kernel in slices, since a plain call costs less than polling first.
    Python begins a slice anew after each signal, so that a timer faster than slices would make a
    wait endless: one that is shorter than a slice is polled for, and exact. A socket that another
    library keeps from blocking, as gevent does, waits in slices by itself.

    Args:
        connection: The socket.
    """

    _SLICE = 0.2

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        slice_of_time = _timeval(self._SLICE)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, slice_of_time)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, slice_of_time)
        self._is_cooperative = not os.get_blocking(connection.fileno())
        if self._is_cooperative:
            connection.settimeout(self._SLICE)
        self._socket = connection
        self._receive, self._send = connection.recv_into, connection.send
        close_in_forked_child(connection)

    def read_into(self, view: memoryview, deadline: float | None) -> int:
        while True:
            if deadline is not None and deadline - monotonic() < self._SLICE:
                _wait(self._socket.fileno(), select.POLLIN, deadline)
            try:
                return self._receive(view)
            except Exception as error:
                self._require_end_of_slice(error)
                if self.on_wait is not None:
                    self.on_wait()

    def write(self, data: bytes | memoryview, deadline: float | None) -> int:
        flags = _NO_SIGNAL if deadline is None else _NO_SIGNAL | _NOW
        while True:
            if self._is_cooperative:  # it would wait all the same
                _wait(self._socket.fileno(), select.POLLOUT, deadline)
            try:
                return self._send(data, flags)
            except Exception as error:
                self._require_end_of_slice(error)
            _wait(self._socket.fileno(), select.POLLOUT, deadline)

    def _require_end_of_slice(self, error: Exception) -> None:
        """Go on where only a slice is over.

        Raises:
            Exception: It is another one: the kernel's own time-out, or of a signal handler.
        """
        raise_error_of_handler(error)
        is_time_out = isinstance(error, TimeoutError) and error.errno is None
        if not (is_time_out or isinstance(error, BlockingIOError)):
            raise error

    @property
    def descriptors(self) -> Descriptors | None:
        return Descriptors(self._socket.fileno(), self._socket.fileno())

    def read_now(self, view: memoryview) -> int | None:
        if self._is_cooperative:
            return super().read_now(view)
        try:
            return self._receive(view, 0, _NOW)
        except BlockingIOError:
            return None

    def write_now(self, data: bytes | memoryview) -> int:
        if self._is_cooperative:
            return super().write_now(data)
        try:
            return self._send(data, _NO_SIGNAL | _NOW)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        with suppress(OSError):  # the other end was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("@ll", whole, int((seconds - whole) * 1_000_000))


class PipeStream(ByteStream):
    """A pair of file descriptors, which it owns: for the worker's side.

    On the host's side use a :class:`SocketStream`: nothing wakes a thread that reads a pipe, so
    ``close`` from another thread would not end its ``receive``.

    Args:
        read_fd: The one to read.
        write_fd: The one to write.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        self._closed = False
        for fd in (read_fd, write_fd):
            os.set_blocking(fd, True)  # whoever started us may have left them otherwise

    def read_into(self, view: memoryview, deadline: float | None) -> int:
        _wait(self._read_fd, select.POLLIN, deadline)
        return os.readv(self._read_fd, [view])

    def write(self, data: bytes | memoryview, deadline: float | None) -> int:
        _wait(self._write_fd, select.POLLOUT, deadline)
        return os.write(self._write_fd, data if deadline is None else data[: select.PIPE_BUF])

    @property
    def descriptors(self) -> Descriptors | None:
        return Descriptors(self._read_fd, self._write_fd)

    def close(self) -> None:
        """Close it. Only the thread that reads may: nothing wakes a reader of a pipe."""
        if not self._closed:
            self._closed = True
            for fd in {self._read_fd, self._write_fd}:
                os.close(fd)


def open_stream(read_fd: int, write_fd: int) -> ByteStream:
    """The stream over two descriptors, which it owns.

    Args:
        read_fd: The one to read.
        write_fd: The one to write; if one socket is under both, the stream is that of a socket.
    """
    if not (_is_socket(read_fd) and os.path.sameopenfile(read_fd, write_fd)):
        return PipeStream(read_fd, write_fd)
    os.close(write_fd)
    return SocketStream(socket.socket(fileno=read_fd))


def _is_socket(fd: int) -> bool:
    return stat.S_ISSOCK(os.fstat(fd).st_mode)


def _wait(fd: int, event: int, deadline: float | None) -> None:
    """Wait until a descriptor is ready.

    Raises:
        TimeoutError: It was not in time.
    """
    if deadline is None:
        return
    poller = select.poll()
    poller.register(fd, event)
    if not poller.poll(max(0.0, deadline - monotonic()) * 1000):
        raise TimeoutError


class StreamChannel(WatchableChannel):
    """Messages over a byte stream, in both dialects.

    Args:
        stream: The bytes in and out; the channel owns it.
        limits: The largest messages that it accepts.
        memory: Shared memory for large buffers; the channel owns it.
        recallable: Whether the other end may take back what it has sent, if it can: then this end
            waits for it for a moment, should both be about to take the same message.
    """

    def __init__(
        self,
        stream: ByteStream,
        limits: StreamLimits | None = None,
        memory: SharedMemory | None = None,
        *,
        recallable: bool = True,
    ) -> None:
        self._stream = stream
        self._memory = memory
        limits = limits or StreamLimits()
        self._parser = (
            MessageParser(limits) if memory is None else MessageParser(limits, memory.take)
        )
        if memory is not None:
            stream.on_wait = memory.rest
            if recallable and memory.recalls is None:  # or this end is the one that takes back
                memory.on_recallable = self._count_for
        self._sent = self._received = 0  # messages; those that come count once they may be recalled
        self._recalls: memoryview | None = None  # of the other end
        self._undecided: Message | None = None  # came, and the other end is about to take it back
        self._scratch = memoryview(bytearray(_CHUNK))
        self._unsent: list[memoryview] = []
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def unread(self) -> bytes:
        return bytes(self._parser.pending[:_QUOTED])

    def close(self) -> None:
        self._closed = self._parser.finished = True
        self._recalls = None
        self._stream.close()  # again, since Ctrl-C may have ended the first time in its midst
        if self._memory is not None:
            self._memory.close()

    def send(self, message: Message, timeout: float | None = None) -> None:
        if self._closed:
            raise ChannelClosed("the channel is closed")
        deadline = None if timeout is None else monotonic() + timeout
        if self._recalls is not None:
            self._recalls[NEXT] = self._received + 1
        write = self._stream.write
        entries: list[TableEntry] = []
        started = False
        try:
            for part in self._parts(message, entries):
                sent = write(part, deadline)
                started = True
                while sent < len(part):
                    sent += write(memoryview(part)[sent:], deadline)
        except BaseException as error:
            if started:  # the other end could not tell the rest of this message from the next
                self.close()
            elif self._memory is not None:
                self._memory.take_back(entries)
            raise_error_of_handler(error)
            if isinstance(error, OSError | ValueError) and not isinstance(error, TimeoutError):
                text = f"the other end closed the channel ({error})"
                raise ChannelClosed(text, sent=started) from None
            raise
        self._sent += 1

    @property
    def descriptors(self) -> Descriptors | None:
        return self._stream.descriptors

    def send_now(self, *messages: Message) -> bool:
        if self._closed:
            raise ChannelClosed("the channel is closed")
        lent: list[list[TableEntry]] = []
        parts: list[bytes | memoryview] = []
        try:
            for message in messages:
                lent.append([])
                parts += self._parts(message, lent[-1])
            if len(parts) > 1 and sum(map(len, parts)) < _JOIN_BELOW:
                parts = [b"".join(parts)]
            sent = self._stream.write_now(parts[0])
        except BaseException as error:
            if self._memory is not None:
                self._memory.take_back(chain.from_iterable(lent))
            if isinstance(error, OSError | ValueError):
                text = f"the other end closed the channel ({error})"
                raise ChannelClosed(text) from None
            raise
        self._sent += len(messages)
        if sent == len(parts[0]) and len(parts) == 1:
            return True
        self._unsent = [memoryview(parts[0])[sent:], *(memoryview(part) for part in parts[1:])]
        return self.flush_now()

    def flush_now(self) -> bool:
        unsent = self._unsent
        try:
            while unsent:
                sent = self._stream.write_now(unsent[0])
                if not sent and len(unsent[0]):
                    return False
                unsent[0] = unsent[0][sent:]
                if not unsent[0]:
                    del unsent[0]
        except (OSError, ValueError) as error:
            self.close()
            text = f"the other end closed the channel ({error})"
            raise ChannelClosed(text, sent=True) from None
        return True

    def take_back(self) -> int:
        recalls = None if self._memory is None else self._memory.recalls
        if recalls is None or self._unsent or self._recalls is not None:
            return 0
        return recall(recalls, self._sent)

    def _count_for(self, recalls: memoryview) -> None:
        """From the message that comes now, its first, the other end may take some back."""
        self._recalls = recalls
        recalls[NEXT] = 1

    def _lose_count(self) -> None:
        """What came is no message, or more than one: the other end can take nothing back."""
        if self._recalls is not None:
            self._recalls[NEXT], self._recalls = NEVER_AGAIN, None

    def _parts(self, message: Message, entries: list[TableEntry]) -> Sequence[bytes | memoryview]:
        """A message as bytes: one piece with its small buffers; large ones apart, or in shared
        memory.

        Args:
            message: The message.
            entries: Receives the entries of its buffer table that are not inline.
        """
        header, buffers, dialect = message
        memory = self._memory
        if dialect is _LINE:
            if memory is not None:
                memory.recalls = None  # lines that go before its offer are not counted there
            return (header + b"\n",)
        if memory is not None:
            if memory.unread:
                memory.give_back()
            if memory.announcements:
                entries += memory.announce()
            if len(header) >= THRESHOLD:
                header = self._lend_map(memory, header, entries)
        table: list[EntryFields] = [*entries]
        inline: list[memoryview] = []
        inline_size = 0
        for buffer in buffers:
            view = memoryview(buffer)
            size = view.nbytes
            if size < THRESHOLD or memory is None or (lent := memory.lend(view)) is None:
                inline_size += size
                inline.append(view)
                table.append((_INLINE, 0, 0, size))
            else:
                entries.append(lent)
                table.append(lent)
        if inline_size < _JOIN_BELOW:
            return (write_frame(header, table, inline),)
        whole = (view.cast("B") for view in inline if view.nbytes)
        return (write_frame(header, table), *whole)

    def _lend_map(self, memory: SharedMemory, header: bytes, entries: list[TableEntry]) -> bytes:
        """Lend a large map like a large buffer; what is left of it for the frame itself."""
        entry = memory.lend(header)
        if entry is None:
            return header
        entries.append(entry._replace(kind=EntryKind.MAP))
        return b""

    def receive(self, timeout: float | None = None) -> Message:
        deadline = None if timeout is None else monotonic() + timeout
        parser = self._parser
        while True:
            message = self._undecided
            try:
                if message is None and (parser.pending or parser.ended):
                    message = parser.next_message()
                while message is None:
                    if parser.finished:
                        self._refuse_to_read()
                    target = parser.target
                    try:
                        count = self._stream.read_into(target or self._scratch, deadline)
                    except Exception as error:
                        if not self._is_end(error):
                            raise
                        count = 0
                    if self._closed:
                        raise ChannelClosed("the channel was closed while it waited")
                    message = parser.filled(count) if target else parser.feed(self._scratch[:count])
                    if message is not None:
                        break
                    if deadline is not None and monotonic() > deadline:
                        raise TimeoutError  # what comes is no message, perhaps without end
            except ProtocolError:
                self._lose_count()
                raise
            recalls = self._recalls
            if recalls is None:
                return message
            number = self._received + 1
            if recalls[UPTO] < number <= recalls[NEXT]:
                self._received = number
                return message
            if not self._is_taken_back(message, number, deadline):
                return message

    def receive_now(self) -> Message | None:
        parser = self._parser
        message = self._undecided
        try:
            if message is None and (parser.pending or parser.ended):
                message = parser.next_message()
            if message is None:
                if parser.finished:
                    self._refuse_to_read()
                target = parser.target
                try:
                    count = self._stream.read_now(target or self._scratch)
                except Exception as error:
                    if not self._is_end(error):
                        raise
                    count = 0
                if count is None:
                    return None
                message = parser.filled(count) if target else parser.feed(self._scratch[:count])
        except ProtocolError:
            self._lose_count()
            raise
        if message is None or self._recalls is None:
            return message
        return None if self._is_taken_back(message, self._received + 1, None) else message

    def _is_end(self, error: Exception) -> bool:
        """Whether the stream raised it because the other end is gone.

        Raises:
            Exception: A signal handler raised it.
            ChannelClosed: The stream is closed at this end, or broken.
        """
        raise_error_of_handler(error)
        if isinstance(error, ConnectionError):
            return True
        if isinstance(error, OSError | ValueError) and not isinstance(error, TimeoutError):
            raise ChannelClosed(f"the channel is closed ({error})") from None
        return False

    def _is_taken_back(self, message: Message, number: int, deadline: float | None) -> bool:
        """Whether the other end has taken back a message that this end is about to take.

        It decides within microseconds; if it was stopped meanwhile, the message is kept for the
        next call, and where it is gone, nobody waits for what it has sent.

        Raises:
            TimeoutError: It has not decided in time.
            ChannelClosed: This end was closed meanwhile.
        """
        self._undecided = message
        while True:
            recalls = self._recalls
            if recalls is None:
                raise ChannelClosed("the channel was closed while it waited")
            recalled = is_recalled(recalls, number)
            if recalled is None:
                recalled = self._has_hung_up() or None
            if recalled is not None:
                self._undecided, self._received = None, number
                return recalled
            if deadline is not None and monotonic() > deadline:
                raise TimeoutError
            sleep(_WHILE_DECIDING)

    def _has_hung_up(self) -> bool:
        """Whether the other end of the stream is gone, as far as can be told without reading."""
        descriptors = self._stream.descriptors
        if descriptors is None:
            return False
        poller = select.poll()
        poller.register(descriptors.reading, 0)
        return bool(poller.poll(0))

    @property
    def has_more(self) -> bool:
        return bool(self._parser.pending) or self._parser.ended

    def _refuse_to_read(self) -> NoReturn:
        """Nothing can come any more."""
        who = "the channel is closed" if self._closed else "the other end closed the channel"
        raise ChannelClosed(who)
