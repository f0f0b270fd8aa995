"""Malformed traffic for a real server: ``python -m benchmarks.http_hostile --requests 100000``.

A server of models, of workers and of the console is sent HTTP and WebSocket traffic that is wrong
in any way: requests of the Open Inference Protocol with something replaced, bytes that are no HTTP,
heads and bodies that end early, frames and messages that are none. Then comes Schemathesis, which
reads the server's OpenAPI document. Each request must be answered or its connection closed in
time, by no 5xx but those of limits (503) and of patience (504); the server must be the same process
in the end, with nothing in its log about a failure of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.http import TOKEN, wait_until_ready
from soma_core.benchmarking import time_name

__all__ = ["attack"]

CONFIG = """
[server]
port = 0
tokens = "tokens.txt"
[limits]
body = 200000
rows = 1000
[workers]
most = 2
grace = 1.0
[models.scaled]
filter = "sklearn.Binarizer"
"""
PATIENCE = 30.0  # seconds, after which a request hangs
CONNECTIONS = 8
MESSAGES = 25  # of one WebSocket
_BEFORE = 3  # lines of the log before a traceback, which say what was done
ALLOWED = {503, 504}
ODD: list[Any] = [
    None, True, -1, 0, 2**64, 1.5, float("nan"), "", "x", "\0", [], [[]], [[1], [2, 3]], {},
    {"a": 1}, [[[[[1]]]]], "FP32", "BYTES", [1e400], "é",
]  # fmt: skip
PATHS = [
    "/v2", "/v2/health/ready", "/v2/repository/index", "/v2/models/scaled", "/v2/models/none/infer",
    "/v2/models/scaled/versions/9/infer", "/metrics", "/status", "/filters", "/filters/none",
    "/docs", "/workers/x", "/workers/x/interrupt", "/console/x", "/openapi.json", "/%ff",
    "//", "/validate", "/replay", "/workers", "/models/scaled",
]  # fmt: skip
COMMANDS = ["PING", "LIST", "FORWARD", "LOAD", "FIT", "HELLO", "GET_STATE", "UNLOAD", "DANCE"]


class Findings:
    """What came of the requests."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []

    def saw(self, status: int | None, what: bytes) -> None:
        """One was answered, or its connection closed."""
        self.statuses["closed" if status is None else str(status)] += 1
        if status is not None and status >= 500 and status not in ALLOWED:
            self.wrong.append(f"status {status} for {what[:300]!r}")

    def hung(self, what: bytes) -> None:
        """One was neither."""
        self.wrong.append(f"no answer in {PATIENCE:g} s for {what[:300]!r}")

    def __len__(self) -> int:
        return self.statuses.total()


def spoiled(chance: random.Random, data: bytes) -> bytes:
    """Bytes with some of them changed, cut off or doubled."""
    changed = bytearray(data or b"x")
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(changed))
        kind = chance.randrange(4)
        if kind == 0:
            changed[at] = chance.randrange(256)
        elif kind == 1:
            del changed[at : at + chance.randrange(1, 9)]
        elif kind == 2:
            changed[at:at] = chance.choice(
                [b"\r\n", b"\0", b"\xff" * 9, b"\r\n\r\n", b": ", b"{" * 99]
            )
        else:
            changed[at:at] = changed[at : at + 30]
        changed = changed or bytearray(b"x")
    return bytes(changed)


def body(chance: random.Random) -> bytes:
    """The body of a request to run a model, or something like it."""
    count = chance.randrange(4)
    one: dict[str, Any] = {"name": "x", "shape": [count, 2], "datatype": "FP64"}
    one["data"] = [1.5] * (2 * count)
    asked: dict[str, Any] = {"id": "1", "inputs": [one]}
    for _ in range(chance.randrange(3)):
        place = chance.choice([asked, one])
        place[chance.choice([*place, "parameters", "outputs"])] = chance.choice(ODD)
    data = json.dumps(asked).encode()
    return spoiled(chance, data) if chance.random() < 0.3 else data


def request(chance: random.Random) -> bytes:
    """One request: often nearly right."""
    path = "/v2/models/scaled/infer" if chance.random() < 0.5 else chance.choice(PATHS)
    data = body(chance) if chance.random() < 0.8 else chance.randbytes(chance.randrange(300))
    headers = {"Host": "127.0.0.1", "Content-Length": str(len(data))}
    if chance.random() < 0.95:
        headers["Authorization"] = f"Bearer {TOKEN}"
    odd = {
        "Content-Length": ["-1", "1e3", "٣", "99999999999999999999", str(len(data) + 5), "0", "+4"],
        "Transfer-Encoding": ["chunked", "gzip, chunked", "x"],
        "Content-Encoding": ["gzip", "deflate", "br"],
        "Inference-Header-Content-Length": ["0", "-1", "7", "9" * 30, "x"],
        "Expect": ["100-continue", "x"],
        "Origin": ["null", "http://[", "http://evil.example"],
        "Host": ["", "[", "a" * 300, "evil.example"],
        "Connection": ["close", "Upgrade", "keep-alive, close"],
        "Upgrade": ["websocket", "h2c"],
        "traceparent": ["00-x", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"],
    }
    for name, values in odd.items():
        if chance.random() < 0.06:
            headers[name] = chance.choice(values)
    method = chance.choice(["GET", "POST", "POST", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "X"])
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    whole = head.encode() + b"\r\n" + data
    return spoiled(chance, whole) if chance.random() < 0.15 else whole


async def ask(port: int, given: bytes, findings: Findings) -> None:
    """Send bytes over a connection of their own, and see what comes of them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(given)
        with suppress(OSError):
            writer.write_eof()
        came = await asyncio.wait_for(reader.read(1 << 16), PATIENCE)
        found = re.match(rb"HTTP/1\.1 (\d{3})", came)
        findings.saw(int(found[1]) if found else None, given)
    except TimeoutError:
        findings.hung(given)
    except OSError:
        findings.saw(None, given)
    finally:
        writer.close()


def message(chance: random.Random) -> bytes:
    """What a WebSocket is sent: frames, some of them as they should be."""
    command: dict[str, Any] = {"cmd": chance.choice(COMMANDS), "id": 1}
    if chance.random() < 0.7:
        command["node_id"] = chance.choice(["scaled", "none", 3])
        command["data"] = chance.choice(
            [
                *ODD,
                {
                    "type": "Tensor",
                    "data": {"values": [1.0, 2.0], "dtype": "float64", "shape": [1, 2]},
                },
            ]
        )
    if chance.random() < 0.2:
        command[chance.choice([*command, "filters"])] = chance.choice(ODD)
    data = json.dumps(command).encode()
    if chance.random() < 0.2:
        data = spoiled(chance, data)
    if chance.random() < 0.2:
        data = b"\x93SOMA" + chance.randbytes(chance.randrange(60))
    opcode = chance.choice([1, 1, 1, 1, 2, 0, 8, 9, 10, 3]) if chance.random() < 0.3 else 1
    first = opcode | (0x80 if chance.random() < 0.97 else chance.choice([0, 0x40, 0xF0]))
    masked = 0x80 if chance.random() < 0.99 else 0
    size = len(data)
    head = (
        struct.pack("!BB", first, masked | size)
        if size < 126
        else struct.pack("!BBH", first, masked | 126, size)
    )
    mask = chance.randbytes(4)
    hidden = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
    frame = head + (mask + hidden if masked else data)
    return spoiled(chance, frame) if chance.random() < 0.03 else frame


async def converse(port: int, chance: random.Random, path: str, findings: Findings) -> None:
    """Open a WebSocket, and send it what it may not like until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()
    sent = head
    try:
        writer.write(head)
        opened = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        status = int(opened.split()[1])
        findings.saw(status, head)
        if status != 101:
            return
        for _ in range(MESSAGES):
            sent = message(chance)
            writer.write(sent)
            with suppress(TimeoutError):
                if not await asyncio.wait_for(reader.read(1 << 16), 0.05):
                    break
            findings.saw(101, sent)
        writer.write(b"\x88\x80\0\0\0\0")  # a close: the server has to end the connection
        while await asyncio.wait_for(reader.read(1 << 16), PATIENCE):
            pass
    except TimeoutError:
        findings.hung(sent)
    except (OSError, asyncio.IncompleteReadError):
        findings.saw(None, sent)
    finally:
        writer.close()


async def attack(port: int, count: int, seed: int) -> Findings:
    """So many requests and messages, several at a time."""
    findings = Findings()

    async def one(number: int) -> None:
        chance = random.Random(f"{seed}-{number}")
        while len(findings) + len(findings.wrong) < count:
            if number == 0:
                await converse(port, chance, "/workers", findings)
            elif number == 1:
                await converse(port, chance, "/models/scaled", findings)
            else:
                await ask(port, request(chance), findings)

    await asyncio.gather(*map(one, range(CONNECTIONS)))
    return findings


@contextmanager
def serving(log: Path) -> Iterator[tuple[int, int]]:
    """A server; yields its port and its process."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "tokens.txt").write_text(TOKEN)
        path = Path(directory) / "models.toml"
        path.write_text(CONFIG)
        program = (
            "import sys; from soma_http.server.command import run; sys.exit(run(sys.argv[1:]))"
        )
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", program, "--config", str(path)], stderr=file
            )
        try:
            while not (found := re.search(r"listening at \S+:(\d+)", log.read_text())):
                if process.poll() is not None:
                    sys.exit(log.read_text())
                time.sleep(0.05)
            yield int(found[1]), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60.0)


def schemathesis(port: int, examples: int, directory: str) -> str:
    """What Schemathesis says of a server; empty if it finds nothing, or is not installed."""
    if find_spec("schemathesis") is None:
        return "schemathesis is not installed: make http has it"
    url = f"http://127.0.0.1:{port}"
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json",
            "--header", f"Authorization: Bearer {TOKEN}", "--max-examples", str(examples),
            "--checks", "not_a_server_error,status_code_conformance,response_schema_conformance",
            "--phases", "coverage,fuzzing", "--generation-database", "none", "--no-color",
        ],
        capture_output=True, text=True, check=False, cwd=directory,
    )  # fmt: skip
    print(*re.findall(r"^.*(?:generated|passed).*$", done.stdout, re.M)[-3:], sep="\n")
    return "" if done.returncode == 0 else done.stdout[-3000:] + done.stderr[-1000:]


def failures_in(log: str) -> list[str]:
    """What a server's log tells of its failures, each with its traceback and the lines before it.

    What workers print when they are interrupted is theirs.
    """
    lines = [line for line in log.splitlines() if not line.startswith("[worker")]
    found: list[str] = []
    after = 0
    for number, line in enumerate(lines):
        if number < after or not re.search(r"Traceback|Error: |CRITICAL", line):
            continue
        after = number + 1
        while after < len(lines) and lines[after][:1] in ("", " "):
            after += 1
        found.append("\n".join(lines[max(0, number - _BEFORE) : after + 1]))
    return found


def main() -> None:
    """Attack, and print what came of it; the exit status is 1 if anything was wrong."""
    parser = argparse.ArgumentParser("python -m benchmarks.http_hostile", description=__doc__)
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--examples", type=int, default=100, help="of Schemathesis, each operation")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if find_spec("soma_http") is None:
        sys.exit("this attacks soma-http, which is not installed here: make http has it")
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        with serving(log) as (port, pid):
            wait_until_ready(f"http://127.0.0.1:{port}")
            begun = time.perf_counter()
            findings = asyncio.run(attack(port, options.requests, options.seed))
            wrong = findings.wrong
            took = time_name(time.perf_counter() - begun)
            print(f"{len(findings):,} requests and messages in {took}")
            print(
                *(f"{status}: {count:,}" for status, count in sorted(findings.statuses.items())),
                sep=", ",
            )
            if said := schemathesis(port, options.examples, directory):
                wrong.append(said)
            wait_until_ready(f"http://127.0.0.1:{port}")
            os.kill(pid, 0)
        wrong += failures_in(log.read_text(errors="replace"))
    print(f"wrong: {len(wrong)}")
    print(*wrong[:20], sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
