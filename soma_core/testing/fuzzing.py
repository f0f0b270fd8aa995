"""FuzzRun: sends mutants over a connection, and checks that each gets its one reply."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from soma_core.testing.mutations import Mutant, preparation
from soma_core.wire import frames
from soma_core.wire.message import Dialect
from soma_core.wire.unpacking import unpack_map

_BATCH_BYTES = 1 << 15  # what surely fits into the buffers of a socket
_PATIENCE = 60.0
_SHOWN = 400


class _Wrong(Exception):
    """A reply is not what it must be."""


@dataclass
class FuzzRun:
    """Sends mutants, each followed by a PING whose reply shows that the stream is in step.

    Args:
        connect: Opens a connection to an engine of its own.

    Attributes:
        sent: Mutants that were sent.
        failures: What went wrong, with the bytes that did it; empty if all is well.
    """

    connect: Callable[[], socket.socket]
    sent: int = 0
    failures: list[str] = field(default_factory=list)
    _stream: _Stream | None = None

    def send(self, mutants: Iterable[Mutant]) -> None:
        """Send mutants after each of which the stream goes on."""
        for batch in _batches(mutants):
            self._send_batch(batch)

    def send_closing(self, mutant: Mutant) -> None:
        """Send a mutant that ends the stream, over a connection of its own."""
        self.sent += 1
        with closing(_Stream(self.connect())) as stream:
            try:
                stream.send(mutant.data)
                stream.end()
                _check(stream.reply(), mutant)
                stream.expect_end()
            except (OSError, _Wrong, ValueError) as error:
                self._record(mutant, error)

    def close(self) -> None:
        """Close the connection."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _send_batch(self, batch: list[Mutant]) -> None:
        if self._stream is None:
            self._stream = _Stream(self.connect())
        stream, current = self._stream, batch[0]
        pings = [b'{"cmd":"PING","id":"ping %d"}\n' % number for number in range(len(batch))]
        data = [part for mutant, ping in zip(batch, pings, strict=True)
                for part in (mutant.data, ping)]  # fmt: skip
        try:
            stream.send(b"".join([preparation(), *data]))
            if stream.reply()[1].get("id") != "prepare":
                raise _Wrong("the connection was out of step before")
            for number, mutant in enumerate(batch):
                current = mutant
                self.sent += 1
                _check(stream.reply(), mutant)
                pong = stream.reply()[1]
                if pong.get("id") != f"ping {number}":
                    raise _Wrong(f"instead of the next reply came {str(pong)[:_SHOWN]}")
        except (OSError, _Wrong, ValueError) as error:
            self._record(current, error)
            self.close()

    def _record(self, mutant: Mutant, error: Exception) -> None:
        self.failures.append(f"{type(error).__name__}: {error}; after {mutant.data[:_SHOWN]!r}")


def _batches(mutants: Iterable[Mutant]) -> Iterator[list[Mutant]]:
    batch: list[Mutant] = []
    size = 0
    for mutant in mutants:
        batch.append(mutant)
        size += len(mutant.data)
        if size > _BATCH_BYTES or len(batch) == 100:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _check(reply: tuple[Dialect, dict[str, Any]], mutant: Mutant) -> None:
    dialect, fields = reply
    if dialect is not mutant.dialect:
        raise _Wrong(f"the reply is a {dialect.value}: {str(fields)[:_SHOWN]}")
    if fields.get("ok") not in (True, False):
        raise _Wrong(f"this is not a reply: {str(fields)[:_SHOWN]}")
    if str(fields.get("id", "")).startswith("ping "):
        raise _Wrong("there was no reply at all")
    if mutant.closes and mutant.dialect is Dialect.FRAME and fields.get("code") != "malformed":
        raise _Wrong(f"the reply is not that of an unsound frame: {str(fields)[:_SHOWN]}")


class _Stream:
    """Reads replies of both dialects, by code of its own and not by what it tests."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_PATIENCE)
        self._connection = connection
        self._pending = bytearray()

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def end(self) -> None:
        self._connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._connection.close()

    def reply(self) -> tuple[Dialect, dict[str, Any]]:
        """The next reply; events are passed over."""
        while True:
            dialect, fields = self._message()
            if "event" not in fields:
                return dialect, fields

    def _message(self) -> tuple[Dialect, dict[str, Any]]:
        self._need(1)
        if self._pending[0] == frames.MAGIC[0]:
            self._need(frames.PREAMBLE_SIZE)
            start = frames.read_preamble(self._pending)
            end = frames.PREAMBLE_SIZE + start.body_size
            self._need(end)
            header = self._pending[frames.PREAMBLE_SIZE :][: start.header_size]
            fields = unpack_map(header)
            del self._pending[:end]
            return Dialect.FRAME, fields
        while (newline := self._pending.find(b"\n")) < 0:
            self._need(len(self._pending) + 1)
        fields = json.loads(self._pending[:newline], parse_constant=_refuse)
        del self._pending[: newline + 1]
        return Dialect.LINE, fields

    def expect_end(self) -> None:
        """Make sure that nothing more comes.

        Raises:
            _Wrong: Something does.
        """
        try:
            more = bytes(self._pending) or self._connection.recv(_SHOWN)
        except ConnectionResetError:  # it closed with some of what we sent unread
            return
        if more:
            raise _Wrong(f"something comes after the last reply: {more!r}")

    def _need(self, count: int) -> None:
        while len(self._pending) < count:
            data = self._connection.recv(1 << 16)
            if not data:
                raise _Wrong("the stream ended without the reply")
            self._pending += data


def _refuse(constant: str) -> Any:
    raise _Wrong(f"a bare {constant} is not JSON")
