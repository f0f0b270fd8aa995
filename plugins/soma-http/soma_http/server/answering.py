"""Sessions whose messages are answered by a thread of this process, one after the other."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from soma_core.transport import Dialect, ExitStatus, Message
from soma_http.messages import pieces_of
from soma_http.server.sessions import WebSocketSession

_log = logging.getLogger("soma.http")


class AnsweringSession(WebSocketSession):
    """One client, whose messages are answered here."""

    def __init__(self, websocket: WebSocket) -> None:
        super().__init__(websocket)
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "soma-session")
        self._incoming: asyncio.Queue[bytes | None] = asyncio.Queue(1)

    @abstractmethod
    def _prepare(self) -> None:
        """Make ready for the first message; in the thread."""

    @abstractmethod
    def _answer(self, data: bytes) -> Message | None:
        """The reply to a message, if it has one; in the thread."""

    @property
    @abstractmethod
    def _finished(self) -> bool:
        """Whether the client said that no more comes."""

    def _conclude(self) -> ExitStatus:
        """Free what it took; in the thread, once the client is gone."""
        return ExitStatus(code=0)

    def end(self, grace: float) -> None:
        """Have it end now."""
        self.interrupt()
        self._loop.call_soon_threadsafe(self._hang_up)

    def _hang_up(self) -> None:
        if self._incoming.full():
            self._incoming.get_nowait()
        self._incoming.put_nowait(None)

    async def run(self) -> None:
        """Answer messages until the client is gone, or says SHUTDOWN."""
        reading: asyncio.Task[None] | None = None
        try:
            await self._in_thread(self._prepare)
            await self._accept()
            reading = asyncio.create_task(self._read())
            while not self._finished:
                data = await self._incoming.get()
                if data is None:
                    break
                await self._send(await self._in_thread(self._answer, data))
        except (OSError, WebSocketDisconnect):
            _log.debug("client %s is gone", self.id)
        finally:
            if reading is not None:
                reading.cancel()
            await asyncio.shield(self._finish())

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._loop.run_in_executor(self._thread, function, *arguments)

    async def _read(self) -> None:
        """Take messages, one ahead of the one that is answered: so a client that goes is seen."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                self.interrupt()
                await self._incoming.put(None)
                return
            data = message.get("bytes")
            await self._incoming.put(message["text"].encode() if data is None else data)

    async def _finish(self) -> None:
        self.interrupt()
        status = None
        try:
            status = await self._in_thread(self._conclude)
        finally:
            self._thread.shutdown(wait=False)
            await self._end_with(status)

    async def _send(self, message: Message | None) -> None:
        if message is None:
            return
        data = b"".join(pieces_of(message))
        try:
            if message.dialect is Dialect.LINE:
                await self._websocket.send_text(data.decode())
            else:
                await self._websocket.send_bytes(data)
        except RuntimeError as error:  # the server has closed it, since what came was no message
            raise WebSocketDisconnect from error

    def _send_event(self, event: Message) -> None:
        """Send what comes before a reply; in the thread."""
        asyncio.run_coroutine_threadsafe(self._send(event), self._loop).result()
