"""Heads of requests have bounds, and a WebSocket that is closed takes what still comes."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from soma_http.frames import frame_header
from soma_http.server import command
from soma_http.server.bounded import BoundedProtocol
from soma_http.server.config import Settings
from soma_http.server.direct import DirectProtocol, DirectSocket
from websockets.frames import Opcode

OPENING = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
NO_TEXT = frame_header(Opcode.TEXT, 2, masked=True) + bytes(4) + b"\x93\xff"
GOODBYE = frame_header(Opcode.CLOSE, 2, masked=True) + bytes(4) + struct.pack("!H", 1000)


async def closes_at_once(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 1000})


async def refuses(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.http.response.start", "status": 503, "headers": []})
    await send({"type": "websocket.http.response.body", "body": b"full"})


async def answers(scope: Any, receive: Any, send: Any) -> None:
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


def conversation(
    application: Any,
    talk: Callable[[Any, Any], Coroutine[Any, Any, bytes]],
    opening: bytes = OPENING,
    most: int | None = None,
) -> bytes:
    """What a client that opens a connection so is told by an application."""

    async def converse() -> bytes:
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            application,
            http=BoundedProtocol,
            ws=DirectProtocol,
            lifespan="off",
            log_config=None,
            limit_concurrency=most,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listening]))
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(opening)
        came = await talk(reader, writer)
        writer.close()
        server.should_exit = True
        await serving
        return came

    return asyncio.run(converse())


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("opening", "status"),
    [
        (GET + b"x: " + b"a" * 70_000, b"400"),
        (GET + b"x: a\r\n" * 14_000, b"400"),
        (GET + b"x: " + b"a" * 30_000 + b"\r\nConnection: close\r\n\r\n", b"200"),
    ],
    ids=["long", "many", "large"],
)
def test_a_head_that_is_too_large_ends_the_connection(opening, status):
    came = conversation(answers, lambda reader, writer: reader.read(), opening)
    assert came.split()[1] == status


@pytest.mark.parametrize("opening", [b"", GET, GET + b"Content-Length: 9\r\n\r\nx"])
def test_a_head_that_does_not_come_ends_the_connection(opening, monkeypatch):
    monkeypatch.setattr(BoundedProtocol, "head_timeout", 0.01)
    conversation(answers, lambda reader, writer: reader.read(), opening)


def test_the_connections_that_are_silent_the_longest_make_room_and_others_are_answered():
    async def talk(reader: Any, writer: Any) -> bytes:
        address = writer.get_extra_info("peername")

        async def ask() -> bytes:
            talking, asking = await asyncio.open_connection(*address)
            asking.write(GET + b"Connection: close\r\n\r\n")
            answer = await talking.read()
            asking.close()
            return answer.split()[1]

        _, silent = await asyncio.open_connection(*address)
        assert await asyncio.gather(*(ask() for _ in range(8))) == [b"200"] * 8
        came = await reader.read()
        silent.close()
        return came

    assert conversation(answers, talk, b"", most=1) == b""


def test_a_signal_that_comes_before_uvicorn_listens_to_signals_ends_the_server(monkeypatch):
    class Starting:
        should_exit = False

        def run(self, sockets: Any) -> None:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(command, "make_server", lambda *_, **__: Starting())
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(SystemExit) as ended:
            command.serve(None, Settings(), None)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ended.value.code == 0


def test_a_refusal_is_no_failure_of_the_server(caplog):
    came = conversation(refuses, lambda reader, writer: reader.read())
    assert came.startswith(b"HTTP/1.1 503")
    assert came.endswith(b"full")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_text_that_is_none_is_dropped_after_the_application_closed_the_websocket():
    failures: list[Any] = []

    async def talk(reader: Any, writer: Any) -> bytes:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: failures.append(what))
        await reader.readuntil(b"\r\n\r\n")
        closed = await reader.readexactly(4)
        writer.write(NO_TEXT + GOODBYE)
        return closed + await reader.read()

    came = conversation(closes_at_once, talk)
    assert came == frame_header(Opcode.CLOSE, 2) + struct.pack("!H", 1000)
    assert not failures


@pytest.mark.parametrize(
    ("payload", "code"),
    [(b"", b""), (b"\x03\xe8bye", b"\x03\xe8"), (b"x", b"\x03\xea"), (b"\0\5", b"\x03\xea")],
)
def test_a_close_is_answered_with_its_code_unless_that_is_none(payload, code):
    sent: list[bytes] = []
    transport = SimpleNamespace(write=sent.append, close=lambda: None, is_closing=lambda: False)
    receiver = SimpleNamespace(lost=lambda: None)
    closing = DirectSocket(transport, receiver, 100)
    closing.feed(frame_header(Opcode.CLOSE, len(payload), masked=True) + bytes(4) + payload)
    answer = b"".join(sent)
    assert answer[0] == 0x80 | Opcode.CLOSE
    assert answer[2:4] == code
