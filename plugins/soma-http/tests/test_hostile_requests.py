"""Requests that are no good are refused, and none of them is an error of the server."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from soma_http.server.app import make_app
from soma_http.server.config import LimitsConfig, Settings
from soma_http.server.models import Models

from .test_inference import CONFIG, Served

SEEDS = [1, 2]
REQUESTS = 2_000
DATATYPES = ["BOOL", "UINT8", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES", "FP99", "", None]
ODD: list[Any] = [
    None, True, -1, 0, 2**64, 2**2000, 1.5, float("nan"), float("inf"), "", "x", "\0", "\ud800", [],
    [[]], [[1], [2, 3]], [None], {}, {"a": {}}, [1e400], ["é", 1], [[[[[[1]]]]]], [True, 1], "1",
]  # fmt: skip
PATHS = [
    "/v2", "/v2/health/live", "/v2/health/ready", "/v2/repository/index", "/v2/models/echo",
    "/v2/models/echo/ready", "/v2/models/echo/infer", "/v2/models/echo/versions/3/infer",
    "/v2/models/\u2603/infer", "/v2/models//infer", "/v2/models/%00/infer", "/metrics", "/workers",
    "/workers/x", "/workers/x/interrupt", "/workers/%ff?grace=nan", "/", "//", "/../..", "/console",
    "/console/", "/console/../app.py", "/status", "/openapi.json", "/validate", "/replay",
]  # fmt: skip


def valid(chance: random.Random) -> dict[str, Any]:
    count = chance.randrange(4)
    datatype = chance.choice(["FP32", "INT64", "BYTES", "BOOL"])
    item = {"FP32": 1.5, "INT64": 3, "BYTES": "t", "BOOL": True}[datatype]
    one = {"name": "x", "shape": [count], "datatype": datatype, "data": [item] * count}
    return {"id": "1", "inputs": [one]}


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each place in some JSON where something else may be put."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def mutated(chance: random.Random) -> bytes:
    """The body of a request with some of it replaced, cut off or overwritten."""
    request = valid(chance)
    for _ in range(chance.randrange(4)):
        container, key = chance.choice(list(places(request)))
        container[key] = deepcopy(chance.choice([*ODD, *DATATYPES]))
    if chance.random() < 0.3:
        sizes = [0, 1, 4, 12, 2**40, -1, None, "4", True]
        request["inputs"] = (
            [
                {**one, "parameters": {"binary_data_size": chance.choice(sizes)}}
                for one in request["inputs"] or [{}]
                if isinstance(one, dict)
            ]
            if isinstance(request.get("inputs"), list)
            else None
        )
    body = json.dumps(request).encode("utf-8", "surrogatepass")
    if chance.random() < 0.3:
        body += chance.randbytes(chance.randrange(20))
    if chance.random() < 0.2:
        body = body[: chance.randrange(len(body) + 1)]
    if chance.random() < 0.2:
        spoiled = bytearray(body or b"x")
        for _ in range(3):
            spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
        body = bytes(spoiled)
    return body


def headers(chance: random.Random, body: bytes) -> list[tuple[bytes, bytes]]:
    found = [(b"host", b"127.0.0.1:8000")]
    odd = [b"", b"0", b"-1", b"1e3", b"99999999999999999999", "٣".encode(), b"\xff", b"12, 12"]
    for name, chosen in (
        (b"inference-header-content-length", [*odd, str(len(body)).encode(), b"40"]),
        (b"content-length", [*odd, str(len(body)).encode()]),
        (b"content-encoding", [b"gzip", b"deflate", b"identity", b"br", b"gzip, gzip"]),
        (b"origin", [b"null", b"http://127.0.0.1:8000", b"http://[", b"\xff"]),
        (b"host", [b"", b"[", b"evil.example", b"127.0.0.1:99999999", b"\xff"]),
        (b"authorization", [b"Bearer", b"Basic \xff", b"Bearer " + b"x" * 5000]),
    ):
        if chance.random() < 0.15:
            found.append((name, chance.choice(chosen)))
    return found


async def ask(app: Any, chance: random.Random) -> tuple[int, bytes]:
    """Send one request to an application; the status and body of its answer."""
    body = mutated(chance)
    path, _, query = chance.choice([*PATHS, *["/v2/models/echo/infer"] * 10]).partition("?")
    pieces = [body[:5], body[5:]]
    said: dict[str, Any] = {"body": b""}

    async def receive() -> dict[str, Any]:
        if chance.random() < 0.02 or not pieces:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        said["status"] = message.get("status", said.get("status"))
        said["body"] += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": chance.choice(["GET", "POST", "POST", "POST", "DELETE", "PUT", "HEAD", "\u00e9"]),
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": headers(chance, body),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    await app(scope, receive, send)
    return said["status"], said["body"]


async def attack(seed: int, count: int) -> dict[int, int]:
    """Many requests; how often each status came."""
    chance = random.Random(seed)
    models = Models({"echo": CONFIG}, lambda name, _: Served(name, lambda x: x))
    app = make_app(Settings(limits=LimitsConfig(body=100_000)), models)
    statuses: dict[int, int] = {}
    for number in range(count):
        status, body = await ask(app, chance)
        statuses[status] = statuses.get(status, 0) + 1
        assert status < 500, f"request {number} of seed {seed}: {status}, {body!r}"
    return statuses


@pytest.mark.parametrize("seed", SEEDS)
def test_no_request_is_an_error_of_the_server(seed: int):
    statuses = asyncio.run(attack(seed, REQUESTS))
    assert {200, 400, 403, 404, 405, 413} <= statuses.keys()
