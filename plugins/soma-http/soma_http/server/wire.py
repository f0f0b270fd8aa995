"""The server's end of a worker's wire: messages as bytes, without looking into them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

from soma_core.errors import ProtocolError
from soma_core.streams import PREAMBLE_SIZE
from soma_http.messages import declared_size, is_frame

Take = Callable[[Any, bool, bool], None]


class WorkerWire(asyncio.Protocol):
    """A socket to a worker that speaks the protocol on its stdin and stdout.

    Args:
        take: Called with bytes of a message from the worker, whether they are of a line (which
            comes whole and without its end), and whether they are the last of that message.
        lost: Called once nothing more comes.
        paused: Called when the worker does not read what is sent, with True, or does again.
    """

    def __init__(
        self, take: Take, lost: Callable[[], None], paused: Callable[[bool], None]
    ) -> None:
        self._take, self._lost, self._paused = take, lost, paused
        self._pending = bytearray()
        self._left = 0  # bytes of a frame that are still to come
        self._transport: asyncio.Transport | None = None

    async def open(self, connection: socket.socket) -> None:
        """Use a socket, which is owned from here on; nothing is read until :meth:`hold` says so."""
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: self, sock=connection)
        except BaseException:
            connection.close()
            raise

    def send(self, data: Any) -> None:
        """Send bytes."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def hold(self, wait: bool) -> None:
        """Stop reading what the worker sends, or go on."""
        if self._transport is None or self._transport.is_closing():
            return
        if wait:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def close(self) -> None:
        """Close it: the worker comes to the end of its input."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()

    def pause_writing(self) -> None:
        self._paused(True)

    def resume_writing(self) -> None:
        self._paused(False)

    def data_received(self, data: bytes) -> None:
        try:
            self._cut(memoryview(data))
        except ProtocolError:  # what came is not a message, nor would be what follows
            self.close()

    def _cut(self, view: memoryview) -> None:
        if self._pending:
            self._pending += view
            view, self._pending = memoryview(self._pending), bytearray()
        while view:
            if self._left:
                view = self._pass_on(view, self._left)
            elif is_frame(view) and len(view) >= PREAMBLE_SIZE:
                view = self._pass_on(view, declared_size(view))
            else:
                rest = None if is_frame(view) else self._line(view)
                if rest is None:
                    self._pending = bytearray(view)
                    return
                view = rest

    def _pass_on(self, view: memoryview, size: int) -> memoryview:
        """Hand on what has come of a frame; returns what is beyond it."""
        part, rest = view[:size], view[size:]
        self._left = size - len(part)
        self._take(part, False, self._left == 0)
        return rest

    def _line(self, view: memoryview) -> memoryview | None:
        """Hand on a line, if it has come whole; returns what is beyond it."""
        line, end, rest = bytes(view).partition(b"\n")
        if not end:
            return None
        self._take(line, True, True)
        return memoryview(rest)
