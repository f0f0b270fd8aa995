"""Workers behind any transport of this machine, for the pages of a console."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket

from soma_core.errors import ChannelClosed, ErrorCode, ProtocolError
from soma_core.streams import StreamLimits
from soma_core.transport import Channel, Dialect, ExitStatus, Message, Transport
from soma_http.messages import MessageReader
from soma_http.server.answering import AnsweringSession

_START = 60.0  # seconds
_LOOK = 0.25  # seconds between looks at whether the worker still runs
_GRACE = 3.0
_PING = b'{"cmd":"PING"}'


class TransportSession(AnsweringSession):
    """One page and the worker that a transport reached."""

    has_process = True

    def __init__(
        self, websocket: WebSocket, transport: Transport, channel: Channel, limits: StreamLimits
    ) -> None:
        super().__init__(websocket)
        self._transport = transport
        self._channel = channel
        self._reader = MessageReader(limits)
        self._over = False

    def interrupt(self) -> None:
        if self.running is not None:
            self._transport.interrupt()

    @property
    def _finished(self) -> bool:
        return self._over

    def _prepare(self) -> None:
        pong = self._ask(Message(_PING, (), Dialect.LINE))
        if pong is not None:
            pid = json.loads(pong.header).get("pid")
            self.pid = pid if isinstance(pid, int) and self._transport.runs_here(pid) else None

    def _answer(self, data: bytes) -> Message | None:
        try:
            message = self._reader.read(data)
            if message.dialect is not Dialect.LINE:
                raise ProtocolError(ErrorCode.MALFORMED, "a page speaks lines, in text messages")
        except ProtocolError as error:
            return _refused(error)
        if not message.header:
            return None
        reply = self._ask(message)
        self._over = self._over or _name_of(message) == "SHUTDOWN"
        return reply

    def _ask(self, message: Message) -> Message | None:
        """Send a command, and wait for its reply; None if none will come."""
        self.running = (_name_of(message), time.monotonic())
        try:
            self._channel.send(message)
            while True:
                with suppress(TimeoutError):
                    came = self._channel.receive(_LOOK)
                    if "event" not in json.loads(came.header):
                        return came
                    self._send_event(came)
                    continue
                if self._transport.poll() is not None:
                    raise ChannelClosed("the worker has ended")
        except ProtocolError as error:
            return _refused(error)
        except (ChannelClosed, OSError):
            self._over = True
            return None
        finally:
            self.running = None

    def _conclude(self) -> ExitStatus:
        self._channel.close()
        return self._transport.stop(_GRACE) or ExitStatus()


def _name_of(message: Message) -> str:
    try:
        fields = json.loads(message.header)
        node = f" of {fields['node_id']}" if "node_id" in fields else ""
        return f"{fields['cmd']}{node}"
    except (ValueError, KeyError, TypeError):
        return "?"


def _refused(error: ProtocolError) -> Message:
    fields = {"ok": False, "code": error.code, "error": str(error)}
    return Message(json.dumps(fields).encode(), (), Dialect.LINE)


def open_through(
    new_transport: Callable[[], Transport], limits: StreamLimits
) -> Callable[[WebSocket], Any]:
    """What gives each page a worker: through a transport that is made for it."""

    async def open_session(websocket: WebSocket) -> TransportSession:
        transport = new_transport()
        channel = await asyncio.to_thread(transport.start, _START)
        return TransportSession(websocket, transport, channel, limits)

    return open_session
