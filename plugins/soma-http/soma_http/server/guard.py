"""What every request must pass before anything else looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from soma_http.notices import offered_token
from soma_http.server.quotas import Quotas
from soma_http.server.responses import JsonResponse
from soma_http.server.tokens import Tokens

_LOCAL = ("localhost", "127.0.0.1", "::1")


class Guard:
    """Refuses requests without a token, those of web pages, and bodies that are too large.

    A browser lets any page open a WebSocket to any server and send it forms; a page of another
    origin names that in the header ``Origin``. Where no token is wanted, a page could also have
    its own name point at this machine: then only the names of this machine are answered.

    Args:
        body: The largest body, in bytes.
        most: Requests and WebSockets at once, but for those of probes; None for any number.
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
        most: int | None = None,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._body = body
        self._open = open_paths
        self._quotas = quotas
        self._most = most
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_open = scope["path"].removeprefix(scope.get("root_path", "")) in self._open
        holder = b"" if is_open else self._holder(scope, headers)
        refusal = self._refusal(headers, holder)
        if refusal is None and not is_open:  # a probe is answered however much there is to do
            refusal = self._overload(holder)
        if refusal is not None:
            await refusal(scope, receive, send)
        elif is_open:
            await self._app(scope, receive, send)
        else:
            with self._counted(holder, timed=scope["type"] == "http"):
                await self._app(scope, receive, send)

    @contextmanager
    def _counted(self, holder: bytes | None, *, timed: bool) -> Iterator[None]:
        """For the time of a request."""
        self._running += 1
        try:
            with self._quotas.running(holder, timed=timed) if holder else nullcontext():
                yield
        finally:
            self._running -= 1

    def _holder(self, scope: Scope, headers: Headers) -> bytes | None:
        """Whose request it is: nobody's in particular where no token is wanted."""
        given = headers.get("authorization") or offered_token(scope.get("subprotocols", ()))
        return self._tokens.holder(given)

    def _refusal(self, headers: Headers, holder: bytes | None) -> JsonResponse | None:
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
        return None

    def _overload(self, holder: bytes | None) -> JsonResponse | None:
        if self._most is not None and self._running >= self._most:
            text = f"this server has as many requests at once as it may ({self._most})"
            return _try_later(503, text, 1)
        over = self._quotas.refusal(holder) if holder else None
        return None if over is None else _try_later(429, *over)


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


def _refused(status: int, text: str) -> JsonResponse:
    return JsonResponse({"error": text}, status)


def _try_later(status: int, text: str, seconds: int) -> JsonResponse:
    response = _refused(status, f"{text}; try again later")
    response.headers["Retry-After"] = str(seconds)
    return response
