"""soma over HTTP: ``python -m benchmarks.http`` measures calls over a WebSocket, and REST.

A call is compared with a bare WebSocket echo of as many bytes, by the same libraries, with such an
echo behind a relay that passes on bytes and looks at none, and with the same call over stdio, which
has no server in between. A model is asked by 64 callers, each
on a connection of its own that is kept; it adds up a row of 64 numbers, so that what is measured is
the way there and back. All run on this machine, the callers included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import soma_core as soma
from benchmarks.training.races import processor_seconds
from soma_core.benchmarking import size_name, time_name
from soma_core.testing import Echo

__all__ = [
    "ask_model",
    "call",
    "infer_request",
    "learned",
    "load",
    "post",
    "serving",
    "wait_until_ready",
]

CALLERS = 64
TOKEN = "a-token-of-this-benchmark"
CONFIG = """
[server]
port = 0
tokens = "tokens.txt"
pickle = "clients may run any code as this user"
[models.plain]
filter = "sklearn.LogisticRegression"
checkpoint = "plain.soma"
[models.batched]
filter = "sklearn.LogisticRegression"
checkpoint = "batched.soma"
batching = { max_rows = 64, max_delay = 0.002 }
"""
ECHO = """
import socket, uvicorn
async def app(scope, receive, send):
    await receive(); await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "bytes": message["bytes"]})
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="websockets-sansio",
    ws_max_size=1 << 28, ws_per_message_deflate=False)).run(sockets=[listening])
"""

RELAY = """
import asyncio, sys, uvloop
async def main(port):
    loop = asyncio.get_running_loop()
    class Client(asyncio.Protocol):
        up, early = None, b""
        def connection_made(self, transport):
            self.down = transport
            self.opening = loop.create_task(self.open())
        async def open(self):
            class Server(asyncio.Protocol):
                data_received = lambda _, data: self.down.write(data)
            up, _ = await loop.create_connection(Server, "127.0.0.1", port)
            up.write(self.early)
            self.up = up
        def data_received(self, data):
            if self.up is None: self.early += data
            else: self.up.write(data)
        def connection_lost(self, error):
            if self.up is not None: self.up.close()
    server = await loop.create_server(Client, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
uvloop.run(main(int(sys.argv[1])))
"""


@contextmanager
def _program(*arguments: str, found: str, stream: str) -> Iterator[tuple[str, int]]:
    """A program that runs: what it says on a stream once it serves, and its process id."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        text=True,
        **{stream: subprocess.PIPE},  # type: ignore[call-overload]
    )
    try:
        for line in getattr(process, stream):
            if said := re.search(found, line):
                yield said[1], process.pid
                break
    finally:
        process.terminate()
        process.wait()
        getattr(process, stream).close()


def learned() -> tuple[np.ndarray, np.ndarray]:
    """What every model here has learned: rows of 64 numbers, and a class of ten for each."""
    random = np.random.default_rng(0)
    return random.random((1000, 64)), random.integers(0, 10, 1000)


@contextmanager
def serving() -> Iterator[tuple[str, int]]:
    """A server with two models; yields its URL and its process id."""
    program = "import sys; from soma_http.server.command import run; sys.exit(run(sys.argv[1:]))"
    with tempfile.TemporaryDirectory() as directory:
        for name in ("plain", "batched"):
            node = {name: ("sklearn.LogisticRegression", {})}
            with soma.connect("inline", filters=node, pickle="never") as worker:
                worker.fit(name, *learned())
                worker.save_checkpoint(Path(directory) / f"{name}.soma")
        (Path(directory) / "tokens.txt").write_text(TOKEN)
        path = Path(directory) / "models.toml"
        path.write_text(CONFIG)
        arguments = ["-c", program, "--config", str(path)]
        with _program(*arguments, found=r"listening at (\S+)", stream="stderr") as served:
            yield served


def _measured(
    ask: Callable[[], object], count: int, pids: Sequence[int]
) -> tuple[float, list[float]]:
    """The median of a call, and the processor time of one in each process, in seconds."""
    for _ in range(count // 10):
        ask()
    times, before = [], [processor_seconds(pid) for pid in pids]
    for _ in range(count):
        begun = time.perf_counter()
        ask()
        times.append(time.perf_counter() - begun)
    used = [processor_seconds(pid) - busy for pid, busy in zip(pids, before, strict=True)]
    return statistics.median(times), [seconds / count for seconds in used]


def call(url: str, server: int, count: int) -> None:
    """Print what a call costs, beside an echo of as many bytes.

    Args:
        url: The server's.
        server: Its process.
        count: How many calls.
    """
    from websockets.sync.client import connect

    filters = {"echo": Echo()}
    options = {"url": url, "token": TOKEN, "trust_server": True, "filters": filters}
    with (
        _program("-c", ECHO, found=r"(\d+)", stream="stdout") as (port, echoing),
        _program("-c", RELAY, port, found=r"(\d+)", stream="stdout") as (between, _),
        connect(f"ws://127.0.0.1:{port}", max_size=None, compression=None) as echo,
        connect(f"ws://127.0.0.1:{between}", max_size=None, compression=None) as relayed,
        soma.connect("http", **options) as worker,
        soma.connect("stdio", filters=filters) as local,
    ):

        def echoed(websocket: Any, data: bytes) -> None:
            websocket.send(data)
            websocket.recv()

        pids = {
            "echo": [os.getpid(), echoing],
            "soma": [os.getpid(), server, worker.ping().pid],
            "stdio": [os.getpid(), local.ping().pid],
        }
        spent = (
            "processor time of an echo: client, server",
            "of soma over stdio: client, worker",
            "of soma: client, server, worker",
        )
        head = ("", "bare echo", "behind a relay", "times", "soma", "times", *spent, "times")
        print(f"| {' | '.join(head)} |\n" + "| --- " * len(head) + "|")
        for array, rounds in ((np.zeros(10), count), (np.zeros(1 << 17), count // 10)):
            data = array.tobytes()
            bare, busy = _measured(partial(echoed, echo, data), rounds, pids["echo"])
            passed, _ = _measured(partial(echoed, relayed, data), rounds, ())
            forward = partial(worker.forward, "echo", array)
            ours, used = _measured(forward, rounds, pids["soma"])
            _, near = _measured(partial(local.forward, "echo", array), rounds, pids["stdio"])
            cells = [size_name(array.nbytes), time_name(bare)]
            cells += [time_name(passed), f"{passed / bare:.2f}"]
            cells += [time_name(ours), f"{ours / bare:.2f}"]
            cells += [", ".join(map(time_name, each)) for each in (busy, near, used)]
            print(f"| {' | '.join(cells)} | {sum(used) / sum(busy):.2f} |")


def infer_request(model: str, *, binary: bool) -> bytes:
    """A request for one row of a model, as bytes."""
    row = np.random.default_rng(1).random((1, 64))
    one: dict[str, object] = {"name": "x", "shape": [1, 64], "datatype": "FP64"}
    asked: dict[str, object] = {"inputs": [one]}
    data = b""
    if binary:
        data = row.tobytes()
        one["parameters"] = {"binary_data_size": len(data)}
        asked["parameters"] = {"binary_data_output": True}
    else:
        one["data"] = row.ravel().tolist()
    head = json.dumps(asked).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    if binary:
        headers["Inference-Header-Content-Length"] = str(len(head))
    return post(f"/v2/models/{model}/infer", head + data, headers)


def post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """The bytes of a request."""
    given = {"Host": "localhost", **headers, "Content-Length": str(len(body))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def _caller(port: int, request: bytes, until: float, times: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        begun = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = re.search(rb"\ncontent-length: (\d+)", head, re.IGNORECASE)
        assert length is not None
        await reader.readexactly(int(length[1]))
        times.append(time.perf_counter() - begun)
    writer.close()


async def load(port: int, request: bytes, seconds: float) -> list[float]:
    """Have callers ask for so long; returns the seconds of each answer."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    await asyncio.gather(*(_caller(port, request, until, times) for _ in range(CALLERS)))
    return times


def ask_model(url: str, seconds: float) -> None:
    """Print how many rows a second callers get, and how long they wait."""
    port = int(url.rpartition(":")[2])
    print(f"| {CALLERS} callers | rows a second | p50 | p99 |\n| --- | --- | --- | --- |")
    for model in ("plain", "batched"):
        for kind in ("JSON", "binary"):
            request = infer_request(model, binary=kind == "binary")
            asyncio.run(load(port, request, seconds / 5))
            times = sorted(asyncio.run(load(port, request, seconds)))
            p50, p99 = (time_name(times[int(len(times) * share)]) for share in (0.5, 0.99))
            print(f"| {model}, {kind} | {len(times) / seconds:,.0f} | {p50} | {p99} |")


def wait_until_ready(url: str) -> None:
    """Wait until all models of a server can be asked."""
    port = int(url.rpartition(":")[2])
    asked = b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(asked)
            if b" 200 " in connection.recv(100):
                return
        time.sleep(0.1)
    sys.exit("the models were not ready in time")


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser("python -m benchmarks.http", description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    if find_spec("soma_http") is None or find_spec("soma_filters_sklearn") is None:
        sys.exit("this measures soma-http, which is not installed here: make http has it")
    with serving() as (url, server):
        wait_until_ready(url)
        call(url, server, options.calls)
        print()
        ask_model(url, options.seconds)


if __name__ == "__main__":
    main()
