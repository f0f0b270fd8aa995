"""Servers of models that batch by themselves: a Ray Serve handle, and LitServe over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import numpy as np

from benchmarks.serving.model import Array, forward

__all__ = ["lit_serve", "ray_serve"]

Answer = Callable[[Array], Awaitable[Array]]
_REPLICAS = 2
_ROWS = 64
_DELAY = 0.005
_START = 60.0  # seconds that a server may take to come up


def _split(out: Array) -> list[Array]:
    return [out[row : row + 1] for row in range(len(out))]


@asynccontextmanager
async def ray_serve() -> AsyncIterator[Answer]:
    """A deployment of two replicas with ``serve.batch``, called by its handle: no HTTP."""
    import ray
    from ray import serve

    @serve.deployment(
        num_replicas=_REPLICAS, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0}
    )
    class Model:
        @serve.batch(max_batch_size=_ROWS, batch_wait_timeout_s=_DELAY)
        async def __call__(self, rows: list[Array]) -> list[Array]:
            return _split(forward(np.concatenate(rows)))

    ray.init(include_dashboard=False, logging_level="error", log_to_driver=False)
    try:
        serve.start(http_options={"location": "NoServer"})
        handle: Any = serve.run(Model.bind(), route_prefix=None)
        yield handle.remote
    finally:
        serve.shutdown()
        ray.shutdown()


@asynccontextmanager
async def lit_serve() -> AsyncIterator[Answer]:
    """A LitServe server of two workers that batches, over HTTP with connections kept open."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    command = [sys.executable, "-m", "benchmarks.serving.lit", str(port)]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
    client = _Client(port)
    try:
        await client.wait()
        yield client.ask
    finally:
        client.close()
        os.killpg(server.pid, signal.SIGKILL)  # its workers would outlive it
        server.wait()


class _Client:
    """As little of HTTP as asks a server for one row: what it costs is the server's, not ours."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def wait(self) -> None:
        """Wait until the server answers."""
        async with asyncio.timeout(_START):
            while True:
                with suppress(OSError, asyncio.IncompleteReadError, ValueError):
                    await self.ask(np.zeros((1, 64), np.float32))
                    return
                await asyncio.sleep(0.2)

    async def ask(self, x: Array) -> Array:
        """The answer to one row."""
        if self._free:
            reader, writer = self._free.popleft()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        body = json.dumps({"row": x[0].tolist()}).encode()
        head = (
            "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        status, *headers = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        sizes = [line.split(":")[1] for line in headers if line.startswith("content-length:")]
        answer = json.loads(await reader.readexactly(int(sizes[0])))
        if " 200 " not in status:
            raise ValueError(f"{status}: {answer}")
        self._free.append((reader, writer))
        return np.asarray([answer["row"]], np.float32)

    def close(self) -> None:
        """Close the connections."""
        for _, writer in self._free:
            writer.close()
