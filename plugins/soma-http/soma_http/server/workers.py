"""The routes of workers: a WebSocket for the protocol, and requests about a worker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from math import isfinite

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from soma_core.errors import SomaError, StartFailed
from soma_core.streams import StreamLimits
from soma_http.notices import status_text
from soma_http.server.launching import Policy, WorkerLauncher
from soma_http.server.models import Models, ServedModel
from soma_http.server.passing import PassingSession
from soma_http.server.printed import PrintedLines
from soma_http.server.responses import JsonResponse
from soma_http.server.sessions import WebSocketSession, WebSocketSessions
from soma_http.server.shared import SharedModelSession

_FORCE = 3.0  # seconds for a worker to end after its grace


class WorkerRoutes:
    """Gives each WebSocket a worker of its own."""

    def __init__(
        self,
        open_session: Callable[[WebSocket], Awaitable[WebSocketSession]],
        sessions: WebSocketSessions,
        models: Models,
        limits: StreamLimits,
        grace: float,
    ) -> None:
        self._open = open_session
        self._models = models
        self._limits = limits
        self._sessions = sessions
        self._grace = grace

    def routes(self) -> list[BaseRoute]:
        """What is served."""
        return [
            WebSocketRoute("/workers", self.connect),
            WebSocketRoute("/models/{model}", self.share),
            WebSocketRoute("/{path:path}", self.nowhere),
            Route("/workers/{id}", self.worker, methods=["GET", "DELETE"]),
            Route("/workers/{id}/interrupt", self.interrupt, methods=["POST"]),
        ]

    async def connect(self, websocket: WebSocket) -> None:
        """Start a worker and pass messages, until one of the two is gone."""
        sessions = self._sessions
        if sessions.full:
            text = f"as many workers run as may ({sessions.most}); try again when one has ended"
            await _deny(websocket, 503, text)
            return
        sessions.starting += 1
        try:
            session = await self._open(websocket)
        except SomaError as error:
            await _deny(websocket, 503, str(error))
            return
        finally:
            sessions.starting -= 1
        await sessions.run(session)

    async def share(self, websocket: WebSocket) -> None:
        """Speak the protocol to the nodes of a model, which all clients share."""
        name = websocket.path_params["model"]

        def model() -> ServedModel:
            found = self._models.get(name)
            if found is None:
                raise StartFailed(f"there is no model {name!r} any more")
            return found

        found, sessions = self._models.get(name), self._sessions
        if found is None:
            await _deny(websocket, 404, f"the model {name!r} is not there")
        elif not found.ready:
            await _deny(websocket, 503, f"the model {name!r} is not ready")
        elif sessions.shared_out:
            text = f"as many clients share models as may ({sessions.sharing}); try again later"
            await _deny(websocket, 503, text)
        else:
            await sessions.run(SharedModelSession(websocket, model, self._limits))

    async def nowhere(self, websocket: WebSocket) -> None:
        """Say that nothing is here, which a client cannot tell from a refusal otherwise."""
        path = websocket.path_params["path"]
        await _deny(websocket, 404, f"no worker is at /{path}: is the URL that of the server?")

    async def worker(self, request: Request) -> Response:
        """How a worker is; with DELETE, end it first."""
        session_id = request.path_params["id"]
        session = self._sessions.find(session_id)
        if session is not None and request.method == "DELETE":
            grace = _grace(request.query_params.get("grace", ""), self._grace)
            session.end(grace)
            try:
                await asyncio.wait_for(session.ended.wait(), grace + _FORCE)
            except TimeoutError:
                return JsonResponse({"error": "the worker does not end"}, 504)
        status = self._sessions.status(session_id)
        if session is not None:
            status = session.status
        elif status is None:
            return JsonResponse({"error": f"there is no worker {session_id!r}"}, 404)
        if status is None:
            return JsonResponse({"ended": False})
        return Response(status_text(status), media_type="application/json")

    async def interrupt(self, request: Request) -> Response:
        """Interrupt the command that a worker runs."""
        session_id = request.path_params["id"]
        session = self._sessions.find(session_id)
        if session is None:
            return JsonResponse({"error": f"there is no worker {session_id!r}"}, 404)
        session.interrupt()
        return Response(status_code=204)


async def _deny(websocket: WebSocket, status: int, text: str) -> None:
    await websocket.send_denial_response(JsonResponse({"error": text}, status))


def open_own(
    launcher: WorkerLauncher, grace: float
) -> Callable[[WebSocket], Awaitable[WebSocketSession]]:
    """What gives each WebSocket a worker of this server's."""

    async def open_session(websocket: WebSocket) -> PassingSession:
        asked = websocket.query_params
        printed = PrintedLines() if asked.get("output") == "true" else None
        pickle: Policy = "same-user" if asked.get("pickle") == "same-user" else "never"
        process, wire = await asyncio.to_thread(
            launcher.launch,
            pickle,
            _threads(asked.get("threads", "")),
            None if printed is None else printed.add,
        )
        return PassingSession(websocket, process, wire, printed, grace)

    return open_session


def _threads(text: str) -> int | None:
    """Threads that a client asks for: no more than there are cores."""
    if not text.isdecimal() or len(text) > 9:
        return None
    return min(int(text), os.cpu_count() or 1) or None


def _grace(text: str, most: float) -> float:
    try:
        grace = float(text)
    except ValueError:
        return most
    return min(max(grace, 0.0), most) if isfinite(grace) else most
