"""The application: every route of a server, behind its guard."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware

from soma_http.server.config import Settings
from soma_http.server.guard import Guard
from soma_http.server.launching import WorkerLauncher
from soma_http.server.sessions import Sessions
from soma_http.server.tokens import Tokens
from soma_http.server.workers import WorkerRoutes

__all__ = ["make_app"]

_OPEN = frozenset({"/v2/health/live", "/v2/health/ready"})


def make_app(settings: Settings) -> Starlette:
    """The application that the settings describe.

    Raises:
        OSError, ValueError: The file of tokens cannot be used.
    """
    tokens_file = settings.server.tokens
    tokens = Tokens(None) if tokens_file is None else Tokens.of_file(tokens_file)
    launcher = WorkerLauncher(
        settings.workers, settings.limits.of_messages(), pickles=settings.server.allows_pickles
    )
    workers = WorkerRoutes(launcher, Sessions(settings.workers.most), settings.workers.grace)
    guard = Middleware(Guard, tokens=tokens, body=settings.limits.body, open_paths=_OPEN)
    return Starlette(routes=workers.routes(), middleware=[guard])
