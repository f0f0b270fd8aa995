"""A WebSocket that the application has closed takes whatever still comes."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import uvicorn
from soma_http.frames import frame_header
from soma_http.server.direct import DirectProtocol
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


def test_a_text_that_is_none_is_dropped_after_the_application_closed_the_websocket():
    failures: list[Any] = []

    async def converse() -> bytes:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: failures.append(what))
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(closes_at_once, ws=DirectProtocol, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listening]))
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(OPENING)
        await reader.readuntil(b"\r\n\r\n")
        closed = await reader.readexactly(4)
        writer.write(NO_TEXT + GOODBYE)
        rest = await reader.read()
        writer.close()
        server.should_exit = True
        await serving
        return closed + rest

    came = asyncio.run(converse())
    assert came == frame_header(Opcode.CLOSE, 2) + struct.pack("!H", 1000)
    assert not failures
