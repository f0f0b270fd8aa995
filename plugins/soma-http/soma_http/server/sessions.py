"""Sessions: clients over WebSockets, each with a worker, until both have ended."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from soma_core.transport import ExitStatus
from soma_http.notices import (
    ENDED,
    LARGEST_HEADER,
    SUBPROTOCOL,
    WORKER_HEADER,
    status_text,
)
from soma_http.server.direct import largest_message

_log = logging.getLogger("soma.http")


class WebSocketSession(ABC):
    """One client over a WebSocket, and what can be asked about it beside that.

    Args:
        websocket: The client's, not accepted yet.

    Attributes:
        id: What the client calls it by in other requests.
        has_process: Whether it has a worker of its own.
        began: When it did (``time.monotonic``).
        pid: The process of its worker, if it has one of its own.
        running: The command that runs, if that is known, and since when (``time.monotonic``).
        status: How it ended, once it has.
        ended: Set then.
    """

    has_process: bool

    def __init__(self, websocket: WebSocket) -> None:
        self.id = uuid.uuid4().hex
        self.began = time.monotonic()
        self.pid: int | None = None
        self.running: tuple[str, float] | None = None
        self.status: ExitStatus | None = None
        self.ended = asyncio.Event()
        self._websocket = websocket

    @abstractmethod
    def interrupt(self) -> None:
        """Interrupt the command that runs."""

    @abstractmethod
    def end(self, grace: float) -> None:
        """Have it end, within so many seconds."""

    @abstractmethod
    async def run(self) -> None:
        """Serve the client until its end."""

    async def _accept(self) -> None:
        """Take the WebSocket; a page that offers a subprotocol gives up without one."""
        offered = self._websocket.scope["subprotocols"]
        chosen = SUBPROTOCOL if SUBPROTOCOL in offered else None
        headers = {WORKER_HEADER: self.id}
        if (largest := largest_message(self._websocket)) is not None:
            headers[LARGEST_HEADER] = str(largest)
        said = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._websocket.accept(chosen, said)

    async def _end_with(
        self, status: ExitStatus | None, last_words: Callable[[], None] = lambda: None
    ) -> None:
        """The worker has ended: tell whoever asks, and the client, if it is there."""
        self.status = status or ExitStatus()
        self.ended.set()
        if self._websocket.application_state is WebSocketState.CONNECTED:
            try:
                last_words()
                await self._websocket.close(ENDED, status_text(self.status))
            except (OSError, RuntimeError, WebSocketDisconnect):
                _log.debug("client %s is gone before it was told the end", self.id)


class WebSocketSessions:
    """Those that run, and how the last ones ended.

    Args:
        most: How many may run at once that have a worker of their own.
        sharing: How many may run at once that share a model.

    Attributes:
        starting: How many are being started.
        started: How many were started so far.
    """

    _REMEMBERED = 256

    def __init__(self, most: int, sharing: int) -> None:
        self.most = most
        self.sharing = sharing
        self.starting = self.started = 0
        self._running: dict[str, WebSocketSession] = {}
        self._ended: OrderedDict[str, ExitStatus] = OrderedDict()

    def __len__(self) -> int:
        return self.starting + sum(one.has_process for one in self._running.values())

    def __iter__(self) -> Iterator[WebSocketSession]:
        return iter(list(self._running.values()))

    @property
    def full(self) -> bool:
        """Whether as many workers run as may."""
        return len(self) >= self.most

    @property
    def shared_out(self) -> bool:
        """Whether as many clients share models as may."""
        return sum(not one.has_process for one in self._running.values()) >= self.sharing

    def find(self, session_id: str) -> WebSocketSession | None:
        """One that runs."""
        return self._running.get(session_id)

    def status(self, session_id: str) -> ExitStatus | None:
        """How one ended."""
        return self._ended.get(session_id)

    async def run(self, session: WebSocketSession) -> None:
        """Run one until its end."""
        self._running[session.id] = session
        self.started += session.has_process
        try:
            await session.run()
        finally:
            del self._running[session.id]
            self._ended[session.id] = session.status or ExitStatus()
            while len(self._ended) > self._REMEMBERED:
                self._ended.popitem(last=False)
