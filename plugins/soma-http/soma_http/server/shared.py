"""Clients that speak the whole protocol to the pool of a model, which they share."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

from pydantic import ConfigDict, PrivateAttr
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

import soma_core as soma
from soma_core.errors import ErrorCode, ProtocolError
from soma_core.serve import Responder
from soma_core.streams import StreamLimits
from soma_core.transport import Dialect, ExitStatus, Message
from soma_http.messages import MessageReader, pieces_of
from soma_http.notices import ENDED, WORKER_HEADER, status_text
from soma_http.server.models import Model

__all__ = ["SharedModelSession"]

_log = logging.getLogger("soma.http")
_COMMANDS = ("HELLO", "LIST", "PING", "FORWARD", "COMPOSITE_FORWARD", "INTERRUPT", "SHUTDOWN")


class _PooledNode(soma.Filter):
    """A node of the pool, which runs there; nobody can fit it from here."""

    model_config = ConfigDict(defer_build=True)
    _run: Callable[[str, Any, Any], Any] = PrivateAttr()
    _node_id: str = PrivateAttr()
    _meta: soma.FilterMeta = PrivateAttr()

    @classmethod
    def of(cls, run: Callable[[str, Any, Any], Any], node_id: str, meta: soma.FilterMeta) -> Any:
        made = cls()
        made._run, made._node_id, made._meta = run, node_id, meta
        return made

    def forward(self, x: Any, state: Any) -> Any:
        """Run it with a state; an empty one is what the pool learned."""
        return self._run(self._node_id, x, state or None)

    def meta(self) -> soma.FilterMeta:
        """That of the node in the pool."""
        return self._meta


class _Nodes:
    """The nodes of a model, as the filters that an engine knows by name: it knows no others."""

    def __init__(self, model: Model, run: Callable[[str, Any, Any], Any]) -> None:
        self._metas = model.metas()
        self._run = run

    def names(self) -> list[str]:
        return list(self._metas)

    def create(self, name: str, config: dict[str, Any]) -> Any:
        return _PooledNode.of(self._run, name, self._metas[name])


class SharedModelSession:
    """One client of a model: an engine of its own, whose nodes run in the model's pool.

    Args:
        websocket: The client's, not accepted yet.
        model: Gives the model of now, which may be replaced meanwhile.
        limits: The largest messages to accept.

    Attributes:
        id: What the client calls it by in other requests.
        status: How it ended, once it has.
        ended: Set then.
        began: When it did (``time.monotonic``).
    """

    has_process = False

    def __init__(
        self, websocket: WebSocket, model: Callable[[], Model], limits: StreamLimits
    ) -> None:
        self.id = uuid.uuid4().hex
        self.began = time.monotonic()
        self.status: ExitStatus | None = None
        self.ended = asyncio.Event()
        self._websocket = websocket
        self._model = model
        self._reader = MessageReader(limits)
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "soma-shared")
        self._incoming: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._running: Future[Any] | None = None
        self._loads = True
        self._responder = Responder(
            limits=limits,
            pickle="never",
            watch=self._allow,
            filters=_Nodes(model(), self._run_node),
        )

    def interrupt(self) -> None:
        """Interrupt the command that runs."""
        running = self._running
        if running is not None:
            running.cancel()

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
            await self._in_thread(self._load)
            await self._websocket.accept(headers=[(WORKER_HEADER.encode(), self.id.encode())])
            reading = asyncio.create_task(self._read())
            while not self._responder.finished:
                data = await self._incoming.get()
                if data is None:
                    break
                await self._send(await self._in_thread(self._answer, data))
        except (OSError, WebSocketDisconnect):
            _log.debug("client %s is gone", self.id)
        finally:
            if reading is not None:
                reading.cancel()
            await self._finish()

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
        self._thread.shutdown(wait=False)
        self.status = ExitStatus(code=0)
        self.ended.set()
        if self._websocket.application_state is WebSocketState.CONNECTED:
            try:
                await self._websocket.close(ENDED, status_text(self.status))
            except (OSError, RuntimeError, WebSocketDisconnect):
                _log.debug("client %s is gone before it was told the end", self.id)

    async def _send(self, message: Message | None) -> None:
        if message is None:
            return
        data = b"".join(pieces_of(message))
        if message.dialect is Dialect.LINE:
            await self._websocket.send_text(data.decode())
        else:
            await self._websocket.send_bytes(data)

    def _answer(self, data: bytes) -> Message | None:
        """The reply to a message; a blank line has none."""
        try:
            message = self._reader.read(data)
        except ProtocolError as error:
            return self._responder.refuse(error)
        if not message.header:
            return None
        return self._responder.respond(message, self._send_event)

    def _send_event(self, event: Message) -> None:
        asyncio.run_coroutine_threadsafe(self._send(event), self._loop).result()

    def _load(self) -> None:
        """Give the engine the nodes of the model."""
        names = _Nodes(self._model(), self._run_node).names()
        specs = [{"id": name, "filter": name} for name in names]
        line = json.dumps({"cmd": "LOAD", "filters": specs}).encode()
        self._responder.respond(Message(line, (), Dialect.LINE), self._send_event)
        self._loads = False

    def _allow(self, cmd: str, node_id: str | None) -> None:
        if cmd not in _COMMANDS and not self._loads:
            raise ProtocolError(
                ErrorCode.INVALID_COMMAND,
                f"{cmd} is not taken here: this connection shares a model, and takes "
                f"{', '.join(_COMMANDS)}; connect without model= for a worker of your own",
            )

    def _run_node(self, node_id: str, x: Any, state: Any) -> Any:
        """Run a node in the pool, and wait for it."""
        work = self._model().run_node(node_id, x, state)
        running = self._running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result()
        except CancelledError:
            raise KeyboardInterrupt("the command was interrupted") from None
        finally:
            self._running = None
