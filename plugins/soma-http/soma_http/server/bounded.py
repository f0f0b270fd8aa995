"""HTTP connections that take no head without end, wait for none for ever, and make room for others.

Whoever has no token is refused once the head of a request is there. Until then, uvicorn keeps as
much of it as comes, for as long as it takes, and so many silent connections would keep all others
out.
"""

from __future__ import annotations

import asyncio
from operator import itemgetter
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TO_SPEAK = 0.05  # seconds that a new client has, however many there are
_LARGEST = 1 << 16  # bytes of a head, or of what a chunked body has beside its data


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, whose connections end if a head is too large or does not come.

    Where there are more connections than may be, those that are silent the longest are ended: a
    client that has something to say sends that at once.
    """

    head_timeout = 20.0
    """Seconds for the whole of a head, from the opening or the answer before."""

    _overhead = 0  # bytes since the last data, or the last end of a head or a message
    _patience: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # uvicorn would refuse whatever comes over the last connection, probes too.
        self._most, self.limit_concurrency = self.limit_concurrency, None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._wait_for_head()
        if self._most is not None and len(self.connections) > self._most:
            # Only once what came meanwhile was read: many may connect and ask at the same moment.
            self.loop.call_later(_TO_SPEAK, self.loop.call_soon, self._make_room)

    def _make_room(self) -> None:
        until = self.loop.time() + self.head_timeout - _TO_SPEAK
        others = [one for one in self.connections if not one.transport.is_closing()]
        silent = [
            (one._patience.when(), one)
            for one in others
            if isinstance(one, BoundedProtocol) and one._patience is not None
        ]
        over = len(others) - (self._most or 0)
        for when, longest in sorted(silent, key=itemgetter(0))[: max(over, 0)]:
            if when <= until:
                longest.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some of a request has come."""
        self._overhead += len(data)
        super().data_received(data)
        if self._overhead > _LARGEST and not self.transport.is_closing():
            if self._answers:
                self.transport.close()
            else:
                self.send_400_response(f"The head of a request has at most {_LARGEST} bytes.")

    def on_headers_complete(self) -> None:
        """A head is there."""
        self._overhead = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some of a body is there."""
        self._overhead = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there."""
        self._overhead = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A request was answered."""
        super().on_response_complete()
        if not (self._answers or self.transport.is_closing()):
            self._wait_for_head()

    @property
    def _answers(self) -> bool:
        """Whether a request waits for its answer."""
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self._patience = self.loop.call_later(self.head_timeout, self.timeout_keep_alive_handler)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
