"""The application: every route of a server, behind its guard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Route

from soma_http.server import openapi
from soma_http.server.config import Settings
from soma_http.server.console import ConsoleRoutes
from soma_http.server.guard import Guard
from soma_http.server.inference.routes import InferenceRoutes
from soma_http.server.launching import WorkerLauncher
from soma_http.server.metrics import Metrics
from soma_http.server.models import Models
from soma_http.server.pages import CONSOLE, DOCUMENTATION
from soma_http.server.quotas import Quotas
from soma_http.server.refusals import Refusal, answer
from soma_http.server.reloading import Reloading
from soma_http.server.sessions import WebSocketSessions
from soma_http.server.tokens import Tokens
from soma_http.server.workbench import WorkbenchRoutes
from soma_http.server.workers import WorkerRoutes, open_own

_PROBES = frozenset({"/v2/health/live", "/v2/health/ready"})
_OPEN = _PROBES | CONSOLE.paths | DOCUMENTATION.paths


def make_app(
    settings: Settings,
    models: Models | None = None,
    *,
    read: Callable[[], Settings] | None = None,
    is_stale: Callable[[], bool] = lambda: False,
) -> Starlette:
    """The application that the settings describe.

    Args:
        settings: The settings.
        models: The models; None for those of the settings, which are started with the server.
        read: Reads the settings again at SIGHUP; None leaves that signal alone.
        is_stale: Whether SIGHUP has come since the settings were read.

    Raises:
        OSError, ValueError: The file of tokens cannot be used.
    """
    tokens = Tokens.of(settings.server.tokens)
    serving = Models(settings.models) if models is None else models
    limit = settings.limits.body
    largest = settings.limits.of_messages()
    launcher = WorkerLauncher(settings.workers, largest, pickles=settings.server.allows_pickles)
    sessions = WebSocketSessions(settings.workers.most, settings.limits.sharing)
    grace = settings.workers.grace
    workers = WorkerRoutes(open_own(launcher, grace), sessions, serving, largest, grace)
    metrics = Metrics(serving, sessions)
    inference = InferenceRoutes(serving, limit, settings.limits.rows, metrics.count)

    routes: list[BaseRoute] = [
        *inference.routes(),
        *workers.routes(),
        Route("/metrics", metrics.show),
        Route("/openapi.json", openapi.show),
        *DOCUMENTATION.routes(),
    ]
    if settings.server.console:
        routes += ConsoleRoutes(serving, sessions).routes()
        routes += WorkbenchRoutes(
            launcher.transport, sessions, limit, settings.workers.python
        ).routes()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        """Answer probes at once, while the models are loaded."""
        starting = asyncio.create_task(serving.start())
        reloading = None if read is None else Reloading(read, settings, serving, tokens, is_stale)
        try:
            with nullcontext() if reloading is None else reloading.at_hangup():
                yield
        finally:
            starting.cancel()  # a model that is being loaded would hold up the end
            with suppress(asyncio.CancelledError):
                await starting
            await serving.stop()

    quotas = Quotas(settings.limits.token_requests, settings.limits.token_seconds)
    return guarded(routes, tokens, quotas, limit, settings.limits.connections, lifespan)


def guarded(
    routes: Sequence[BaseRoute],
    tokens: Tokens,
    quotas: Quotas,
    body: int,
    most: int | None = None,
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None,
) -> Starlette:
    """An application of routes, behind their guard."""
    guard = Middleware(Guard, tokens=tokens, body=body, open_paths=_OPEN, quotas=quotas, most=most)
    return Starlette(
        routes=routes,
        middleware=[guard],
        exception_handlers=dict.fromkeys((HTTPException, Refusal, ClientDisconnect), answer),
        lifespan=lifespan,
    )
