"""The channel: messages of soma over one WebSocket, without threads of its own."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.exceptions import ProtocolError as BadClose
from websockets.frames import Close, CloseCode, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from soma_core.errors import ChannelClosed, ErrorCode, ProtocolError, StartFailed
from soma_core.streams import ByteStream, StreamLimits, raise_error_of_handler
from soma_core.transport import Channel, Dialect, Message
from soma_http.frames import BadFrame, Frame, FrameReader, apply_mask, frame_header
from soma_http.messages import MessageReader, pieces_of
from soma_http.notices import OUTPUT_NOTICE

_CHUNK = 1 << 18
_OPCODES = {Dialect.LINE: Opcode.TEXT, Dialect.FRAME: Opcode.BINARY}
_CLOSE = int(Opcode.CLOSE)  # an enumeration is slow to look into
_END_OF_HEAD = b"\r\n\r\n"


class WebSocketChannel(Channel):
    """Messages over a WebSocket whose handshake is done; it owns the connection.

    Args:
        stream: The connection.
        came: What came after the handshake.
        limits: What this side takes.
        largest: The most bytes of a message that the server takes.
        printed: Given the lines that the worker printed.

    Attributes:
        goodbye: What the server said when it closed the WebSocket; None if it has not.
    """

    def __init__(
        self,
        stream: ByteStream,
        came: bytes,
        limits: StreamLimits,
        largest: int,
        printed: Callable[[list[str]], object],
    ) -> None:
        self._stream, self._largest = stream, largest
        self._frames = FrameReader(masked=False, largest=limits.body)
        self._reader = MessageReader(limits)
        self._printed = printed
        self._fragments: list[Any] = []
        self._came: deque[bytes | bytearray | memoryview] = deque()
        self._scratch = memoryview(bytearray(_CHUNK))
        self._using = threading.Lock()
        self._closed = self._lost = False
        self.goodbye: Close | None = None
        self._take_all(came, None)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._using.acquire(blocking=False):  # else it is cut off under whoever waits
            try:
                self._say_goodbye()
            finally:
                self._using.release()
        self._stream.close()

    def _say_goodbye(self) -> None:
        if self.goodbye is None and not self._lost:
            with suppress(OSError, ValueError):  # it is gone, or does not read
                _write_all(self._stream, _control(Opcode.CLOSE, _NORMAL), monotonic())

    def send(self, message: Message, timeout: float | None = None) -> None:
        if self._closed:
            raise ChannelClosed("the channel is closed")
        deadline = None if timeout is None else monotonic() + timeout
        pieces = list(pieces_of(message))
        size = sum(map(len, pieces))
        if size > self._largest:
            raise ProtocolError(
                ErrorCode.TOO_LARGE,
                f"the message has {size:,} bytes, and the server takes {self._largest:,}: send "
                "less at once, or raise its setting body in [limits]",
            )
        started = False
        try:
            with self._using:
                for data in _framed(pieces, _OPCODES[message.dialect]):
                    sent = self._stream.write(data, deadline)
                    started = True
                    if sent < len(data):
                        _write_all(self._stream, memoryview(data)[sent:], deadline)
        except BaseException as error:
            if started:  # the server could not tell the rest of this message from the next
                self.close()
            raise_error_of_handler(error)
            if isinstance(error, OSError | ValueError) and not isinstance(error, TimeoutError):
                text = f"the server closed the connection ({error})"
                raise ChannelClosed(text, sent=started) from None
            raise

    def receive(self, timeout: float | None = None) -> Message:
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            while self._came:
                data = self._came.popleft()
                if data[: len(OUTPUT_NOTICE)] != OUTPUT_NOTICE:
                    return self._reader.read(data)
                self._printed(json.loads(bytes(data))["lines"])
            if self._closed:
                raise ChannelClosed("the channel is closed")
            if self.goodbye is not None:
                raise ChannelClosed(f"the server closed the connection: {self.goodbye}")
            if self._lost:
                raise ChannelClosed("the connection to the server was lost")
            with self._using:
                self._read(deadline)

    def _read(self, deadline: float | None) -> None:
        """Wait for bytes, and take what messages they complete."""
        try:
            count = self._stream.read_into(self._scratch, deadline)
        except (OSError, ValueError, SystemError) as error:  # C makes the last of a handler's
            raise_error_of_handler(error)
            if isinstance(error, TimeoutError | SystemError):
                raise
            if not isinstance(error, ConnectionError):
                raise ChannelClosed(f"the channel is closed ({error})") from None
            count = 0
        if self._closed:
            raise ChannelClosed("the channel was closed while it waited")
        if count:
            self._take_all(bytes(self._scratch[:count]), deadline)
        else:
            self._lost = True

    def _take_all(self, data: bytes, deadline: float | None) -> None:
        try:
            for frame in self._frames.feed(data):
                self._take(frame, deadline)
        except BadFrame as error:
            why = Close(error.code, "").serialize()
            with suppress(OSError, ValueError):
                _write_all(self._stream, _control(Opcode.CLOSE, why), monotonic())
            self._lost = True
            raise ChannelClosed(f"what came is no WebSocket: {error}") from None

    def _take(self, frame: Frame, deadline: float | None) -> None:
        if frame.opcode >= _CLOSE:
            with suppress(OSError, ValueError):  # an answer to a server that is gone
                self._answer(frame, deadline)
            return
        if frame.last and not self._fragments:
            self._came.append(frame.payload)
            return
        self._fragments.append(frame.payload)
        if frame.last:
            self._came.append(b"".join(self._fragments))
            self._fragments = []

    def _answer(self, frame: Frame, deadline: float | None) -> None:
        """Answer what is said of the WebSocket itself: a ping, and its end."""
        payload = bytes(frame.payload)
        if frame.opcode == Opcode.PING:
            _write_all(self._stream, _control(Opcode.PONG, payload), deadline)
        elif frame.opcode == Opcode.CLOSE:
            try:
                self.goodbye = Close.parse(payload)
            except (BadClose, UnicodeDecodeError):
                self.goodbye = Close(CloseCode.PROTOCOL_ERROR, "")
            _write_all(self._stream, _control(Opcode.CLOSE, _NORMAL), deadline)


_NORMAL = Close(CloseCode.NORMAL_CLOSURE, "").serialize()


def _write_all(stream: ByteStream, data: bytes | memoryview, deadline: float | None) -> None:
    sent = 0
    while sent < len(data):
        sent += stream.write(memoryview(data)[sent:], deadline)


def _control(opcode: Opcode, payload: bytes) -> bytes:
    return _masked(opcode, payload, last=True)


def _masked(opcode: int, payload: Any, *, last: bool) -> bytes:
    mask = os.urandom(4)
    header = frame_header(opcode, len(payload), last=last, masked=True)
    return b"".join((header, mask, apply_mask(payload, mask)))


def _framed(pieces: Sequence[Any], opcode: int) -> Iterator[bytes]:
    """The bytes of a message, whose pieces are fragments if there are several."""
    for number, piece in enumerate(pieces, 1):
        yield _masked(opcode, piece, last=number == len(pieces))
        opcode = Opcode.CONT


def shake_hands(
    stream: ByteStream, url: str, headers: dict[str, str], largest: int, deadline: float | None
) -> tuple[Response, bytes]:
    """Open a WebSocket over a new connection, by a time of :func:`time.monotonic`.

    Returns:
        The server's answer, and what came after it.

    Raises:
        StartFailed: The server refused, or is none.
        OSError: The connection failed.
    """
    protocol = ClientProtocol(parse_uri(url), max_size=largest)
    request = protocol.connect()
    request.headers.update(headers)
    protocol.send_request(request)
    for data in protocol.data_to_send():
        _write_all(stream, data, deadline)
    came, refused = b"", False
    scratch = memoryview(bytearray(1 << 12))
    while protocol.state is State.CONNECTING and protocol.handshake_exc is None:
        count = stream.read_into(scratch, deadline)
        if not count:
            protocol.receive_eof()
            break
        came += scratch[:count]
        refused = refused or _is_refusal(came)
        if refused:
            protocol.receive_data(came)
            came = b""
        elif _END_OF_HEAD in came:  # what comes after it is no business of the handshake
            head, end, came = came.partition(_END_OF_HEAD)
            protocol.receive_data(head + end)
    if protocol.handshake_exc is not None:
        raise StartFailed(_refusal(protocol.handshake_exc))
    [response] = [one for one in protocol.events_received() if isinstance(one, Response)]
    return response, came


def _is_refusal(came: bytes) -> bool:
    """Whether the start of an answer says that there will be no WebSocket: it has a body."""
    status = came.partition(b" ")[2][:3]
    return len(status) == 3 and status != b"101"


def _refusal(error: Exception) -> str:
    if not isinstance(error, InvalidStatus):
        wrong = "it does not speak WebSocket: " if isinstance(error, InvalidHandshake) else ""
        return f"{wrong}{error}"
    response = error.response
    try:
        said = json.loads(response.body or b"")["error"]
    except (ValueError, KeyError, TypeError):
        said = response.reason_phrase
    return f"{response.status_code}, {said}"
