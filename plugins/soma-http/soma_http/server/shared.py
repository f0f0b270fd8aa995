"""Clients that speak the whole protocol to the pool of a model, which they share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

from pydantic import ConfigDict, PrivateAttr
from starlette.websockets import WebSocket

import soma_core as soma
from soma_core.errors import ErrorCode, ProtocolError
from soma_core.serve import Responder
from soma_core.streams import StreamLimits
from soma_core.transport import Dialect, Message
from soma_http.messages import MessageReader
from soma_http.server.answering import AnsweringSession
from soma_http.server.models import ServedModel

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

    def __init__(self, model: ServedModel, run: Callable[[str, Any, Any], Any]) -> None:
        self._metas = model.metas()
        self._run = run

    def names(self) -> list[str]:
        return list(self._metas)

    def create(self, name: str, config: dict[str, Any]) -> Any:
        return _PooledNode.of(self._run, name, self._metas[name])


class SharedModelSession(AnsweringSession):
    """One client of a model: an engine of its own, whose nodes run in the model's pool.

    The current model is looked up at each command: it may have been replaced.
    """

    has_process = False

    def __init__(
        self, websocket: WebSocket, model: Callable[[], ServedModel], limits: StreamLimits
    ) -> None:
        super().__init__(websocket)
        self._model = model
        self._reader = MessageReader(limits)
        self._pooled: Future[Any] | None = None
        self._loads = True
        self._responder = Responder(
            limits=limits,
            pickle="never",
            watch=self._allow,
            filters=_Nodes(model(), self._run_node),
        )

    def interrupt(self) -> None:
        pooled = self._pooled
        if pooled is not None:
            pooled.cancel()

    @property
    def _finished(self) -> bool:
        return self._responder.finished

    def _answer(self, data: bytes) -> Message | None:
        """The reply to a message; a blank line has none."""
        try:
            message = self._reader.read(data)
        except ProtocolError as error:
            return self._responder.refuse(error)
        if not message.header:
            return None
        return self._responder.respond(message, self._send_event)

    def _prepare(self) -> None:
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
        pooled = self._pooled = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return pooled.result()
        except CancelledError:
            raise KeyboardInterrupt("the command was interrupted") from None
        except soma.RemoteError as error:
            error.shorten()  # how the server came to it is nothing to its clients
            raise
        finally:
            self._pooled = None
