"""The console: a page that shows a server, and the state that it asks for.

The page is static files without a build step, and loads nothing from elsewhere.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from soma_http.server.models import Model, Models
from soma_http.server.sessions import Sessions

__all__ = ["PAGES", "ConsoleRoutes"]

_FOLDER = Path(__file__).parent
_TYPES = {
    "": ("index.html", "text/html"),
    "console.css": ("console.css", "text/css"),
    "console.mjs": ("console.mjs", "text/javascript"),
    "recorder.mjs": ("recorder.mjs", "text/javascript"),
    "recordings.mjs": ("recordings.mjs", "text/javascript"),
    "shaping.mjs": ("shaping.mjs", "text/javascript"),
}
PAGES = frozenset({"/console", *(f"/console/{name}" for name in _TYPES)})
"""The paths of the page itself, which hold nothing of the server."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class ConsoleRoutes:
    """The page, and what it shows.

    Args:
        models: The models that are served.
        sessions: The clients over WebSockets.
    """

    def __init__(self, models: Models, sessions: Sessions) -> None:
        self._models = models
        self._sessions = sessions
        self._began = time.monotonic()

    def routes(self) -> list[BaseRoute]:
        """What is served."""
        return [
            Route("/console", self.to_page),
            Route("/console/{name:path}", self.page),
            Route("/status", self.status),
        ]

    async def to_page(self, request: Request) -> Response:
        """Where the page really is, so that its files lie beside it."""
        return RedirectResponse(f"{request.scope.get('root_path', '')}/console/", headers=_HEADERS)

    async def page(self, request: Request) -> Response:
        """A file of the page."""
        found = _TYPES.get(request.path_params["name"])
        if found is None:
            return JSONResponse({"error": "the console has no such file"}, 404)
        name, media_type = found
        return FileResponse(_FOLDER / name, media_type=media_type, headers=_HEADERS)

    async def status(self, request: Request) -> Response:
        """The server, its models and its clients, as they are now."""
        models = [_described(model) for model in self._models]
        now = time.monotonic()
        clients = [
            {
                "id": session.id,
                "has_process": session.has_process,
                "seconds": now - session.began,
            }
            for session in self._sessions
        ]
        return JSONResponse(
            {
                "version": version("soma-http"),
                "pid": os.getpid(),
                "seconds": now - self._began,
                "models": models,
                "clients": clients,
            }
        )


def _described(model: Model) -> dict[str, Any]:
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
