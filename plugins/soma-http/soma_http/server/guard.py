"""What every request must pass before anything else looks at it."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from soma_http.notices import offered_token
from soma_http.server.quotas import Quotas
from soma_http.server.tokens import Tokens

__all__ = ["Guard"]

_LOCAL = ("localhost", "127.0.0.1", "::1")


class Guard:
    """Refuses requests without a token, those of web pages, and bodies that are too large.

    A browser lets any page open a WebSocket to any server and send it forms; a page of another
    origin names that in the header ``Origin``. Where no token is wanted, a page could also have
    its own name point at this machine: then only the names of this machine are answered.

    Args:
        body: The largest body, in bytes.
        open_paths: Paths that need no token: those of probes.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Tokens,
        body: int,
        open_paths: frozenset[str],
        quotas: Quotas,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._body = body
        self._open = open_paths
        self._quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        holder = self._holder(scope, headers)
        refusal = self._refusal(scope, headers, holder)
        if refusal is not None:
            await refusal(scope, receive, send)
        elif not holder:
            await self._app(scope, receive, send)
        else:
            with self._quotas.running(holder, timed=scope["type"] == "http"):
                await self._app(scope, receive, send)

    def _holder(self, scope: Scope, headers: Headers) -> bytes | None:
        """Whose request it is: nobody's in particular where no token is wanted."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in self._open:
            return b""
        given = headers.get("authorization") or offered_token(scope.get("subprotocols", ()))
        return self._tokens.holder(given)

    def _refusal(self, scope: Scope, headers: Headers, holder: bytes | None) -> JSONResponse | None:
        host = headers.get("host", "")
        origin = headers.get("origin")
        if origin is not None and _place(origin) != host:
            return _refused(403, f"pages of {origin!r} may not use this server")
        if not self._tokens.wanted and _name(host) not in _LOCAL:
            return _refused(403, f"this server is for this machine alone, not for {host!r}")
        if holder is None:
            response = _refused(401, "a token is wanted: Authorization: Bearer …")
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > self._body:
            return _refused(
                413, f"a body of {length} bytes is refused; the limit is {self._body:,}"
            )
        if over := self._quotas.refusal(holder):
            response = _refused(429, f"{over[0]}; try again later")
            response.headers["Retry-After"] = str(over[1])
            return response
        return None


def _place(url: str) -> str | None:
    """The host and port in a URL; None if it is none."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return None


def _name(host: str) -> str | None:
    """The name in a host and port; None if it is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _refused(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status)
