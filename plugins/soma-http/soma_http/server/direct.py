"""A WebSocket whose messages an application takes as they come, without a task between.

ASGI hands each message over a queue to a task, which waits for it, and so twice for each call. What
only passes messages on between two sockets does so here within the callback that read them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode, Opcode

from soma_http.frames import BadFrame, Frame, FrameReader, frame_header

_EXTENSION = "soma.direct"
_JOINED = 1 << 16  # bytes of a frame that is written at once


class WebSocketReceiver(Protocol):
    """Who takes the messages of a WebSocket."""

    def received(self, frame: Frame) -> None:
        """A fragment of a message, or a whole one, has come."""

    def lost(self) -> None:
        """Nothing more comes."""

    def paused(self, wait: bool) -> None:
        """The client does not read what is sent, or does again."""


class DirectProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which can be taken over once it is open."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._taken: DirectSocket | None = None
        served = self.app

        async def with_itself(scope: Any, receive: Any, send: Any) -> None:
            scope["extensions"][_EXTENSION] = self
            await served(scope, receive, send)
            if self.initial_response is not None:
                self.handshake_complete = True  # refused: uvicorn would log that nothing was sent

        self.app = with_itself

    def take_over(self, receiver: WebSocketReceiver) -> DirectSocket:
        """Hand all that comes from here on to a receiver."""
        self._taken = DirectSocket(self.transport, receiver, self.config.ws_max_size)
        self.transport.resume_reading()
        return self._taken

    def data_received(self, data: bytes) -> None:
        if self._taken is None:
            super().data_received(data)
        else:
            self._taken.feed(data)

    def send_receive_event_to_app(self) -> None:
        """Refuse a text that is none, as uvicorn does, but without a traceback in the log."""
        is_refused = self.curr_msg_data_type == "text" and not _is_text(self.frames)
        if is_refused and not self.close_sent:  # else it is dropped, as all that comes then
            self.conn.send_close(CloseCode.INVALID_DATA)
            self.handle_parser_exception()
        else:
            super().send_receive_event_to_app()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._taken is not None:
            self._taken.receiver.lost()

    def shutdown(self) -> None:
        super().shutdown()
        if self._taken is not None:
            self._taken.receiver.lost()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._taken is not None:
            self._taken.receiver.paused(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._taken is not None:
            self._taken.receiver.paused(False)


def _is_text(fragments: Sequence[Any]) -> bool:
    try:
        b"".join(fragments).decode()
    except UnicodeDecodeError:
        return False
    return True


class DirectSocket:
    """A WebSocket that was taken over."""

    def __init__(
        self, transport: asyncio.Transport, receiver: WebSocketReceiver, largest: int
    ) -> None:
        self.receiver = receiver
        self._transport = transport
        self._frames = FrameReader(masked=True, largest=largest)
        self._closing = False

    def feed(self, data: bytes) -> None:
        """Bytes have come."""
        try:
            for frame in self._frames.feed(data):
                if self._closing:
                    return
                if frame.opcode < Opcode.CLOSE:
                    self.receiver.received(frame)
                else:
                    self._answer(frame)
        except BadFrame as error:
            self.refuse(error.code, str(error))

    def _answer(self, frame: Frame) -> None:
        if frame.opcode == Opcode.PING:
            self.send(Opcode.PONG, frame.payload)
        elif frame.opcode == Opcode.CLOSE:
            self.send(Opcode.CLOSE, _close_code(frame))
            self._end()

    def refuse(self, code: int, why: str) -> None:
        """End it, since what came is not taken."""
        if not self._closing:
            self.send(Opcode.CLOSE, Close(code, why[:100]).serialize())
            self._end()

    def _end(self) -> None:
        self._closing = True
        self._transport.close()
        self.receiver.lost()

    def send(self, opcode: int, payload: Any, *, last: bool = True) -> None:
        """Send a frame."""
        if self._transport.is_closing():
            return
        header = frame_header(opcode, len(payload), last=last)
        if len(payload) <= _JOINED:
            self._transport.write(b"".join((header, payload)))
        else:
            self._transport.write(header)
            self._transport.write(payload)

    def hold(self, wait: bool) -> None:
        """Stop reading what the client sends, or go on."""
        if self._transport.is_closing():
            return
        if wait:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


def _close_code(frame: Frame) -> bytes:
    """The code that the other end closes with.

    Raises:
        BadFrame: It names none in a way that may be.
    """
    payload = bytes(frame.payload)
    try:
        Close.parse(payload)
    except (ProtocolError, UnicodeDecodeError) as error:
        raise BadFrame(CloseCode.PROTOCOL_ERROR, str(error)) from None
    return payload[:2]


def direct_socket(websocket: WebSocket, receiver: WebSocketReceiver) -> DirectSocket:
    """Take over a WebSocket that was accepted just now by a :class:`DirectProtocol`."""
    protocol: DirectProtocol = websocket.scope["extensions"][_EXTENSION]
    return protocol.take_over(receiver)


def largest_message(websocket: WebSocket) -> int | None:
    """The most bytes of a message that is taken, if that is known; a larger one ends the WebSocket.

    Only workers that another process runs need a :class:`DirectProtocol`.
    """
    protocol: DirectProtocol | None = websocket.scope.get("extensions", {}).get(_EXTENSION)
    return None if protocol is None else protocol.config.ws_max_size
