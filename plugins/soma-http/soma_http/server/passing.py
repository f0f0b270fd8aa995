"""Passing: messages between one WebSocket and its worker, until both have ended."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.frames import Opcode

from soma_core.transport import Deadline, WorkerProcess
from soma_http.frames import Frame
from soma_http.notices import output_notice
from soma_http.server.direct import DirectSocket, direct_socket
from soma_http.server.incoming import Incoming
from soma_http.server.printed import PrintedLines
from soma_http.server.sessions import WebSocketSession
from soma_http.server.wire import WorkerWire

_log = logging.getLogger("soma.http")
_LOOK = 0.2  # seconds between looks whether a process runs whose wire somebody else may hold
_ENDING = 0.02  # the same while it is to end
_DRAIN = 0.2  # seconds for the last messages of a worker that has ended
_INVALID = 1007  # the close code for a message that is none


class PassingSession(WebSocketSession):
    """One client and a worker of its own, between which messages pass unread."""

    has_process = True

    def __init__(
        self,
        websocket: WebSocket,
        process: WorkerProcess,
        wire: socket.socket,
        printed: PrintedLines | None,
        grace: float,
    ) -> None:
        super().__init__(websocket)
        self.pid = process.pid
        self._process = process
        self._connection = wire
        self._wire = WorkerWire(self._to_client, self.lost, self._hold_client)
        self._socket: DirectSocket | None = None
        self._incoming = Incoming()
        self._halfway = False  # through a message to the client
        self._reads = asyncio.Event()  # while the client does
        self._reads.set()
        self._over = asyncio.Event()
        self._printed = printed
        self._grace = grace
        self._end_by = Deadline()
        self._asked_to_end = asyncio.Event()

    def interrupt(self) -> None:
        self._process.interrupt()

    def end(self, grace: float) -> None:
        self._end_by = self._end_by.within(grace)
        self._asked_to_end.set()

    async def run(self) -> None:
        """Pass messages both ways until the client or the worker is gone; then end the other."""
        try:
            await self._wire.open(self._connection)
            await self._accept()
            self._socket = direct_socket(self._websocket, self)
            self._wire.hold(False)
            await self._until_over()
        except (OSError, WebSocketDisconnect):
            _log.debug("worker %s: the client is gone", self.id)
        finally:
            await asyncio.shield(self._finish())

    async def _until_over(self) -> None:
        over = asyncio.create_task(self._over.wait())
        tasks = [over, *map(asyncio.create_task, self._others())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._process.poll() is not None:
                await asyncio.wait([over], timeout=_DRAIN)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _others(self) -> list[Coroutine[Any, Any, Any]]:
        waiting: list[Coroutine[Any, Any, Any]] = [self._watch(), self._asked_to_end.wait()]
        return waiting if self._printed is None else [*waiting, self._pass_on_prints()]

    def received(self, frame: Frame) -> None:
        """From the client to the worker: a message, or a fragment of one."""
        try:
            self._wire.send(self._incoming.take(frame))
        except ValueError as error:
            if self._socket is not None:
                self._socket.refuse(_INVALID, str(error))

    def lost(self) -> None:
        """The client is gone, or the wire of the worker."""
        self._over.set()

    def paused(self, wait: bool) -> None:
        """The client does not read: the worker has to wait, or goes on."""
        self._wire.hold(wait)
        if wait:
            self._reads.clear()
        else:
            self._reads.set()

    def _hold_client(self, wait: bool) -> None:
        if self._socket is not None:
            self._socket.hold(wait)

    def _to_client(self, data: Any, is_line: bool, is_last: bool) -> None:
        """From the worker to the client."""
        client = self._socket
        if client is None:
            return
        if self._printed is not None and not self._halfway:
            self._process.output.show()
            self._send_printed()
        opcode = Opcode.CONT if self._halfway else Opcode.TEXT if is_line else Opcode.BINARY
        self._halfway = not is_last
        client.send(opcode, data, last=is_last)

    async def _watch(self) -> None:
        """Until the process has ended: a child of it may hold its wire open."""
        while self._process.poll() is None:
            await asyncio.sleep(_LOOK)

    async def _pass_on_prints(self) -> None:
        assert self._printed is not None
        while True:
            await self._printed.wait()
            await self._reads.wait()
            self._send_printed()

    def _send_printed(self) -> None:
        """Send what was printed, unless half a message of the worker is on its way."""
        if self._printed is None or self._socket is None or self._halfway:
            return
        lines = self._printed.take()
        if lines:
            self._socket.send(Opcode.TEXT, output_notice(lines).encode())

    async def _finish(self) -> None:
        """End the worker, and tell the client how it ended.

        Nobody waits for what it runs any more, so that is interrupted, as often as it takes.
        """
        self._wire.close()
        self._end_by = self._end_by.within(self._grace)
        process, again = self._process, Deadline.after(0.0)
        while process.poll() is None and not self._end_by.over():
            if again.over():
                process.interrupt()
                again = Deadline.after(_LOOK)
            await asyncio.sleep(_ENDING)
        await self._end_with(await asyncio.to_thread(process.stop, 0.0), self._send_printed)
