"""Pages of the server itself: static files that load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from soma_http.server.responses import JsonResponse

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".mjs": "text/javascript"}


class Page:
    """A folder of files as a page, which needs no token since it holds nothing of the server.

    It is ``index.html`` there, served under a path such as ``"/console"``.
    """

    def __init__(self, path: str, folder: Path) -> None:
        self._path = path
        self._files = {file.name: file for file in folder.iterdir() if file.suffix in _TYPES}
        self._files[""] = self._files.pop("index.html")
        self.paths = frozenset({path, *(f"{path}/{name}" for name in self._files)})

    def routes(self) -> list[BaseRoute]:
        """What is served."""
        return [Route(self._path, self._to_page), Route(f"{self._path}/{{name:path}}", self._file)]

    async def _to_page(self, request: Request) -> Response:
        """Where the page really is, so that its files lie beside it."""
        root = request.scope.get("root_path", "")
        return RedirectResponse(f"{root}{self._path}/", headers=_HEADERS)

    async def _file(self, request: Request) -> Response:
        found = self._files.get(request.path_params["name"])
        if found is None:
            return JsonResponse({"error": "the page has no such file"}, 404)
        return FileResponse(found, media_type=_TYPES[found.suffix], headers=_HEADERS)


_HERE = Path(__file__).parent
CONSOLE = Page("/console", _HERE / "console")
"""What the server does, as a page."""
DOCUMENTATION = Page("/docs", _HERE / "documentation")
"""What it answers to, as a page."""
