"""The console: a page that shows a server, and the state that it asks for.

The page is static files without a build step, and loads nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from soma_core.tooling import process_usage
from soma_http.server.models import Models, ServedModel
from soma_http.server.pages import CONSOLE
from soma_http.server.responses import JsonResponse
from soma_http.server.sessions import WebSocketSession, WebSocketSessions

__all__ = ["ConsoleRoutes"]


class ConsoleRoutes:
    """The page, and what it shows."""

    def __init__(
        self,
        models: Models,
        sessions: WebSocketSessions,
        daemon: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> None:
        self._models = models
        self._daemon = daemon
        self._sessions = sessions
        self._began = time.monotonic()

    def routes(self) -> list[BaseRoute]:
        """What is served."""
        return [*CONSOLE.routes(), Route("/status", self.status)]

    async def status(self, request: Request) -> Response:
        """The server, its models and its clients, as they are now."""
        models = [_described(model) for model in self._models]
        now = time.monotonic()
        return JsonResponse(
            {
                "version": version("soma-http"),
                "pid": os.getpid(),
                "seconds": now - self._began,
                "models": models,
                "clients": [_client(session, now) for session in self._sessions],
                "daemon": await asyncio.to_thread(self._daemon),
            }
        )


def _client(session: WebSocketSession, now: float) -> dict[str, Any]:
    cpu, memory = (None, None) if session.pid is None else process_usage(session.pid)
    command, since = session.running or (None, now)
    return {
        "id": session.id,
        "has_process": session.has_process,
        "seconds": now - session.began,
        "pid": session.pid,
        "cpu": cpu,
        "memory": memory,
        "command": command,
        "busy": now - since,
    }


def _described(model: ServedModel) -> dict[str, Any]:
    stats = model.stats()
    return {
        "name": model.name,
        "version": model.config.version,
        "platform": model.platform,
        "ready": model.ready,
        "failure": model.failure,
        "inputs": [one.model_dump() for one in model.inputs],
        "outputs": [one.model_dump() for one in model.outputs],
        "stats": None if stats is None else _summed(stats),
        "workers": [
            {
                "pid": worker.pid,
                "memory": worker.memory_bytes,
                "cpu": worker.cpu_seconds,
                "command": worker.command,
                "seconds": worker.seconds,
                "restarts": worker.restarts,
            }
            for worker in model.workers()
        ],
    }


def _summed(stats: Any) -> dict[str, Any]:
    """What a pool has done, its nodes together; the times are those of the slowest of them."""
    nodes = list(stats.nodes.values())
    counts = {key: value for key, value in asdict(stats).items() if key != "nodes"}
    joined = {key: sum(getattr(one, key) for one in nodes) for key in ("batches", "batched")}
    times = {key: max((getattr(one, key) for one in nodes), default=0.0) for key in ("p50", "p99")}
    return {**counts, **joined, **times}
