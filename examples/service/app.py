"""A service: a model in a pool of workers, behind HTTP.

    pip install starlette uvicorn
    uvicorn --app-dir examples/service app:app

    curl -d '{"rows": [[0.1, 0.2, 0.3, 0.4]]}' localhost:8000/predict

A request waits at most ``SECONDS``, in the queue and in the worker together. A client that hangs up
interrupts its call. At SIGTERM the requests that run are answered, and the workers end.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import soma_core as soma

WORKERS = int(os.environ.get("WORKERS", "2"))
SECONDS = float(os.environ.get("SECONDS", "2.0"))
MOST_WAITING = 1000
LAST_CALLS = 10.0  # seconds that calls may take when the service ends


class Model(soma.Filter):
    """Stands for a model: two layers, and the class of each row."""

    hidden: int = 64

    def on_load(self) -> None:
        random = np.random.default_rng(0)
        self._first = random.normal(size=(4, self.hidden))
        self._second = random.normal(size=(self.hidden, 3))

    def forward(self, x: Any, state: Any) -> Any:
        return np.argmax(np.maximum(x @ self._first, 0.0) @ self._second, axis=1)

    def meta(self) -> soma.FilterMeta:
        return super().meta().replace(rowwise=True)  # calls may be joined


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    """Start the workers before the first request, and end them after the last one."""
    async with soma.AsyncWorkerPool(
        "stdio",
        WORKERS,
        filters={"model": Model()},
        max_queue=MOST_WAITING,
        batching=soma.Batching(max_rows=64, max_delay=0.005),
    ) as pool:
        yield {"pool": pool}
        await pool.shutdown(timeout=LAST_CALLS)


async def predict(request: Request) -> Response:
    """The classes of some rows."""
    try:
        rows = np.asarray((await request.json())["rows"], dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != 4:
            raise ValueError(f"an array of shape {list(rows.shape)} came")
    except (KeyError, TypeError, ValueError) as error:
        message = f'a body {{"rows": [[…], …]}} of rows of 4 numbers is expected: {error}'
        return JSONResponse({"error": message}, 422)
    pool: soma.AsyncWorkerPool = request.state.pool
    try:
        classes = await unless_hung_up(request, pool.forward("model", rows, deadline=SECONDS))
    except soma.QueueFull as error:
        return JSONResponse({"error": str(error)}, 503, {"Retry-After": "1"})
    except soma.DeadlineExceeded as error:
        return JSONResponse({"error": str(error)}, 504)
    except soma.SomaError as error:
        return JSONResponse({"error": str(error)}, 500)
    return JSONResponse({"classes": classes.tolist()})


async def unless_hung_up(request: Request, call: Awaitable[Any]) -> Any:
    """The result of a call, which is cancelled when the client goes away.

    Raises:
        ClientDisconnect: It did.
    """
    answer = asyncio.ensure_future(call)
    hung_up = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait([answer, hung_up], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        answer.cancel()
        hung_up.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def gone(request: Request, error: Exception) -> Response:
    """What a client is told that went away."""
    return Response(status_code=499)


async def health(request: Request) -> Response:
    """Whether the process answers: for whoever would start it anew."""
    return JSONResponse({"healthy": True})


async def ready(request: Request) -> Response:
    """Whether a request would be served: for whoever sends requests."""
    pool: soma.AsyncWorkerPool = request.state.pool
    pids = [status.pid for status in pool.status() if status.alive]
    waiting = pool.stats().queued
    is_ready = bool(pids) and waiting < MOST_WAITING
    return JSONResponse({"workers": pids, "waiting": waiting}, 200 if is_ready else 503)


async def stats(request: Request) -> Response:
    """What the pool has done."""
    pool: soma.AsyncWorkerPool = request.state.pool
    return JSONResponse(asdict(pool.stats()))


app = Starlette(
    lifespan=lifespan,
    exception_handlers={ClientDisconnect: gone},
    routes=[
        Route("/predict", predict, methods=["POST"]),
        Route("/health", health),
        Route("/ready", ready),
        Route("/stats", stats),
    ],
)
