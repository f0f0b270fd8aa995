"""The channel: messages of soma over one WebSocket, without threads of its own."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from soma_core.errors import ChannelClosed, StartFailed
from soma_core.streams import ByteStream, StreamLimits
from soma_core.transport import Channel, Dialect, Message
from soma_http.messages import MessageReader, pieces_of
from soma_http.notices import OUTPUT_NOTICE

__all__ = ["WebSocketChannel", "shake_hands"]

_CHUNK = 1 << 18
_OPCODES = {Dialect.LINE: Opcode.TEXT, Dialect.FRAME: Opcode.BINARY}


class WebSocketChannel(Channel):
    """Messages over a WebSocket whose handshake is done.

    Args:
        stream: The connection; the channel owns it.
        protocol: The state of the WebSocket.
        limits: The largest messages to accept.
        printed: Called with the lines that the worker printed, as they come.
    """

    def __init__(
        self,
        stream: ByteStream,
        protocol: ClientProtocol,
        limits: StreamLimits,
        printed: Callable[[list[str]], object],
    ) -> None:
        self._stream = stream
        self._protocol = protocol
        self._reader = MessageReader(limits)
        self._printed = printed
        self._fragments: list[Any] = []
        self._came: deque[bytes | bytearray] = deque()
        self._scratch = memoryview(bytearray(_CHUNK))
        self._using = threading.Lock()
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def goodbye(self) -> Close | None:
        """What the server said when it closed the WebSocket; None if it has not."""
        return self._protocol.close_rcvd

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
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
            with suppress(OSError, ValueError):  # it is gone, or does not read
                self._write_replies(monotonic())

    def send(self, message: Message, timeout: float | None = None) -> None:
        if self._closed:
            raise ChannelClosed("the channel is closed")
        deadline = None if timeout is None else monotonic() + timeout
        started = False
        try:
            with self._using:
                for data in _framed(message):
                    sent = 0
                    while sent < len(data):
                        sent += self._stream.write(memoryview(data)[sent:], deadline)
                        started = True
        except BaseException as error:
            if started:  # the server could not tell the rest of this message from the next
                self.close()
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
                self._printed(json.loads(data)["lines"])
            if self._closed:
                raise ChannelClosed("the channel is closed")
            if self._protocol.state is not State.OPEN:
                raise ChannelClosed(self._why_closed())
            with self._using:
                self._read(deadline)

    def _why_closed(self) -> str:
        goodbye = self._protocol.close_rcvd
        return (
            f"the server closed the connection: {goodbye}"
            if goodbye
            else ("the connection to the server was lost")
        )

    def _read(self, deadline: float | None) -> None:
        """Wait for bytes, and take what messages they complete."""
        protocol = self._protocol
        try:
            count = self._stream.read_into(self._scratch, deadline)
        except TimeoutError:
            raise
        except ConnectionError:
            count = 0
        except (OSError, ValueError) as error:
            raise ChannelClosed(f"the channel is closed ({error})") from None
        if self._closed:
            raise ChannelClosed("the channel was closed while it waited")
        if count:
            protocol.receive_data(bytes(self._scratch[:count]))
        else:
            protocol.receive_eof()
        for event in protocol.events_received():
            if isinstance(event, Frame):
                self._take(event)
        with suppress(OSError, ValueError):  # a pong to a server that is gone
            self._write_replies(deadline)

    def _take(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.PING, Opcode.PONG, Opcode.CLOSE):
            return
        self._fragments.append(frame.data)
        if frame.fin:
            whole = self._fragments[0] if len(self._fragments) == 1 else b"".join(self._fragments)
            self._fragments = []
            self._came.append(whole)

    def _write_replies(self, deadline: float | None) -> None:
        """Write what the protocol answers by itself: pongs, and the end."""
        for data in self._protocol.data_to_send():
            sent = 0
            while sent < len(data):
                sent += self._stream.write(memoryview(data)[sent:], deadline)


def _framed(message: Message) -> Any:
    """The bytes of a message as masked fragments, one after the other."""
    opcode = _OPCODES[message.dialect]
    pieces = pieces_of(message)
    piece = next(pieces, memoryview(b""))
    for following in pieces:
        yield Frame(opcode, piece, fin=False).serialize(mask=True)
        opcode, piece = Opcode.CONT, following
    yield Frame(opcode, piece).serialize(mask=True)


def shake_hands(
    stream: ByteStream, url: str, headers: dict[str, str], largest: int, deadline: float | None
) -> tuple[ClientProtocol, Response]:
    """Open a WebSocket over a new connection.

    Args:
        stream: The connection.
        url: What to open: ``ws://…`` or ``wss://…``.
        headers: Headers of the request.
        largest: The largest message to accept, in bytes.
        deadline: The time of :func:`time.monotonic` by which it must be open.

    Returns:
        The protocol, and the server's answer.

    Raises:
        StartFailed: The server refused, or is none.
        OSError: The connection failed.
    """
    protocol = ClientProtocol(parse_uri(url), max_size=largest)
    request = protocol.connect()
    request.headers.update(headers)
    protocol.send_request(request)
    for data in protocol.data_to_send():
        sent = 0
        while sent < len(data):
            sent += stream.write(memoryview(data)[sent:], deadline)
    scratch = memoryview(bytearray(1 << 12))
    while protocol.state is State.CONNECTING and protocol.handshake_exc is None:
        count = stream.read_into(scratch, deadline)
        if count:
            protocol.receive_data(bytes(scratch[:count]))
        else:
            protocol.receive_eof()
    if protocol.handshake_exc is not None:
        raise StartFailed(_refusal(protocol.handshake_exc))
    [response] = [one for one in protocol.events_received() if isinstance(one, Response)]
    return protocol, response


def _refusal(error: Exception) -> str:
    if not isinstance(error, InvalidStatus):
        return (
            f"it does not speak WebSocket: {error}"
            if isinstance(error, InvalidHandshake)
            else str(error)
        )
    response = error.response
    try:
        said = json.loads(response.body or b"")["error"]
    except (ValueError, KeyError, TypeError):
        said = response.reason_phrase
    return f"{response.status_code}, {said}"
