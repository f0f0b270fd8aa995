"""The server's end of a worker's wire: whole messages, as bytes, without looking into them."""

from __future__ import annotations

import asyncio
import socket

from soma_core.streams import PREAMBLE_SIZE
from soma_http.messages import declared_size, is_frame

__all__ = ["WorkerWire"]

_CHUNK = 1 << 18
_LINE_END = b"\n"


class WorkerWire:
    """A socket to a worker that speaks the protocol on its stdin and stdout.

    Args:
        connection: The socket, owned from here on.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._pending = bytearray()

    async def send(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            OSError: The worker is gone.
        """
        await self._loop.sock_sendall(self._socket, data)

    async def receive(self) -> bytes | bytearray | None:
        """The next whole message: a frame, or a line without its end; None at the end.

        Raises:
            OSError: The worker is gone.
            ProtocolError: What it sent is not a message.
        """
        while True:
            pending = self._pending
            if len(pending) >= PREAMBLE_SIZE and is_frame(pending):
                return await self._frame()
            end = -1 if is_frame(pending) else pending.find(_LINE_END)
            if end >= 0:
                line = bytes(pending[:end])
                del pending[: end + 1]
                return line
            data = await self._loop.sock_recv(self._socket, _CHUNK)
            if not data:
                return None
            if not pending and is_frame(data) and _is_whole(data):
                return data
            pending += data

    async def _frame(self) -> bytearray | None:
        pending = self._pending
        size = declared_size(pending)
        if len(pending) >= size:
            whole = pending[:size]
            del pending[:size]
            return whole
        whole = bytearray(size)
        filled = len(pending)
        whole[:filled] = pending
        pending.clear()
        view = memoryview(whole)
        while filled < size:
            count = await self._loop.sock_recv_into(self._socket, view[filled:])
            if not count:
                return None
            filled += count
        return whole

    def close(self) -> None:
        """Close it: the worker comes to the end of its input."""
        self._socket.close()


def _is_whole(data: bytes) -> bool:
    return len(data) >= PREAMBLE_SIZE and declared_size(data) == len(data)
