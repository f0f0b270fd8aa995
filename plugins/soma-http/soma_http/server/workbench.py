"""What the console asks about filters, commands and recordings."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from soma_core.errors import ProtocolError, SomaError
from soma_core.tooling import Outcome, check_command, replay
from soma_core.transport import Transport
from soma_http.server.bodies import read_body
from soma_http.server.responses import JsonResponse
from soma_http.server.sessions import WebSocketSessions

_PATIENCE = 60.0  # seconds for one command of a replay, and for the schema of a filter


class WorkbenchRoutes:
    """Answers the console."""

    def __init__(
        self,
        new_transport: Callable[[], Transport],
        sessions: WebSocketSessions,
        limit: int,
        python: Path = Path(sys.executable),
    ) -> None:
        self._new_transport = new_transport
        self._sessions = sessions
        self._limit = limit
        self._python = python
        self._known: dict[str, Any] = {}
        self._one_asks = asyncio.Lock()

    def routes(self) -> list[BaseRoute]:
        """What is served."""
        return [
            Route("/filters", self.filters),
            Route("/filters/{name}", self.filter),
            Route("/validate", self.validate, methods=["POST"]),
            Route("/replay", self.replay, methods=["POST"]),
        ]

    async def filters(self, request: Request) -> Response:
        """The names of the registered filters."""
        return JsonResponse(await self._names())

    async def filter(self, request: Request) -> Response:
        """The JSON Schema of the settings of one; null for one that has none."""
        name = request.path_params["name"]
        if name not in await self._names():
            return JsonResponse({"error": f"there is no filter {name!r}"}, 404)
        try:
            return JsonResponse((await self._asked(name, "--schema"))[name])
        except OSError as error:
            return JsonResponse({"error": str(error)}, 502)

    async def _names(self) -> list[str]:
        return [one["name"] for one in await self._asked("--json")]

    async def _asked(self, *arguments: str) -> Any:
        """What ``soma filters`` says, in a process of its own: filters import what they need.

        Raises:
            OSError: It says nothing.
        """
        key = " ".join(arguments)
        async with self._one_asks:
            if key not in self._known:
                self._known[key] = json.loads(await self._said(*arguments))
            return self._known[key]

    async def _said(self, *arguments: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            str(self._python), "-P", "-m", "soma_core.cli", "filters", *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            said, why = await asyncio.wait_for(process.communicate(), _PATIENCE)
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            raise OSError(why.decode(errors="replace").strip()[-500:])
        return said

    async def validate(self, request: Request) -> Response:
        """Whether a text is a command, and what is wrong with it where."""
        try:
            check_command(await read_body(request, self._limit))
        except ProtocolError as error:
            return JsonResponse({"valid": False, "why": str(error), "where": list(error.where)})
        return JsonResponse({"valid": True, "why": None, "where": []})

    async def replay(self, request: Request) -> Response:
        """Run a recording again in a new worker: a line of JSON for each command."""
        if self._sessions.full:
            text = f"as many workers run as may ({self._sessions.most})"
            return JsonResponse({"error": text}, 503)
        recording = await read_body(request, self._limit)
        return StreamingResponse(self._outcomes(recording), media_type="application/x-ndjson")

    async def _outcomes(self, recording: bytes) -> AsyncIterator[str]:
        loop, sessions = asyncio.get_running_loop(), self._sessions
        alone = ThreadPoolExecutor(1, "soma-replay")  # so that it is closed once it has paused
        outcomes = _run_again(recording, self._new_transport)
        sessions.starting += 1
        try:
            while (one := await loop.run_in_executor(alone, _next, outcomes)) is not None:
                yield _line(n=one.n, verdict=one.verdict, detail=one.detail)
        except SomaError as error:
            yield _line(error=str(error))
        finally:
            sessions.starting -= 1
            alone.submit(outcomes.close)
            alone.shutdown(wait=False)


def _run_again(
    recording: bytes, new_transport: Callable[[], Transport]
) -> Generator[Outcome, None, None]:
    with tempfile.NamedTemporaryFile(prefix="soma-replay-") as file:
        file.write(recording)
        file.flush()
        try:
            yield from replay(Path(file.name), lambda section: new_transport(), timeout=_PATIENCE)
        except ProtocolError as error:
            text = str(error).replace(file.name, "the recording")
            raise ProtocolError(error.code, text) from None


def _next(outcomes: Iterator[Outcome]) -> Outcome | None:
    return next(outcomes, None)


def _line(**fields: Any) -> str:
    return f"{json.dumps(fields)}\n"
