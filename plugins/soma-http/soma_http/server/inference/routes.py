"""The routes of the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from importlib.metadata import version
from time import perf_counter
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from soma_http.server.bodies import read_body
from soma_http.server.inference.messages import IndexRequest, ModelMetadata
from soma_http.server.inference.reading import read_json, read_request
from soma_http.server.inference.writing import write_answer
from soma_http.server.models import Models, ServedModel
from soma_http.server.refusals import Refusal, answer_to
from soma_http.server.responses import JsonResponse
from soma_http.server.tracing import part_of_trace

_SIZE_HEADER = "Inference-Header-Content-Length"
_EXTENSIONS = ["binary_tensor_data", "model_repository"]
Handler = Callable[[Request], Awaitable[Response]]
T = TypeVar("T")
_PATIENCE = 0.2  # seconds for an answer, before it is asked whether somebody waits for it
Count = Callable[[str, int, float, int, int], None]


class InferenceRoutes:
    """Answers requests of the Open Inference Protocol.

    Args:
        limit: The largest body, in bytes.
        rows: The most rows of a request; None for any number.
        count: Called for each request to run a model: with that, the status, the start, and the
            bytes of request and answer.
    """

    def __init__(self, models: Models, limit: int, rows: int | None, count: Count) -> None:
        self._models = models
        self._limit = limit
        self._rows = rows
        self._count = count

    def routes(self) -> list[BaseRoute]:
        """What is served."""
        found = [
            ("/v2", self.server, "GET"),
            ("/v2/health/live", self.live, "GET"),
            ("/v2/health/ready", self.ready, "GET"),
            ("/v2/repository/index", self.index, "POST"),
        ]
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            found += [
                (model, self.metadata, "GET"),
                (f"{model}/ready", self.model_ready, "GET"),
                (f"{model}/infer", self.infer, "POST"),
            ]
        return [
            Route(path, self._answering_errors(handler), methods=[method])
            for path, handler, method in found
        ]

    async def server(self, request: Request) -> Response:
        """What this server is."""
        fields = {"name": "soma", "version": version("soma-http"), "extensions": _EXTENSIONS}
        return JsonResponse(fields)

    async def live(self, request: Request) -> Response:
        """Whether it answers at all."""
        return JsonResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether all models can be asked."""
        ready = self._models.ready
        return JsonResponse({"ready": ready}, 200 if ready else 503)

    async def index(self, request: Request) -> Response:
        """Which models there are, or which of them can be asked."""
        body = await read_body(request, self._limit)
        asked = read_json(body or b"{}", IndexRequest)
        return JsonResponse(
            [
                {
                    "name": model.name,
                    "version": model.config.version,
                    "state": "READY" if model.ready else "UNAVAILABLE",
                    "reason": "" if model.ready else model.failure or "it is being loaded",
                }
                for model in self._models
                if model.ready or not asked.ready
            ]
        )

    async def metadata(self, request: Request) -> Response:
        """What a model is."""
        model = self._model(request)
        fields = ModelMetadata(
            name=model.name,
            versions=[model.config.version],
            platform=model.platform,
            inputs=model.inputs,
            outputs=model.outputs,
        )
        return JsonResponse(fields.model_dump())

    async def model_ready(self, request: Request) -> Response:
        """Whether a model can be asked."""
        model = self._model(request)
        fields = {"name": model.name, "ready": model.ready}
        return JsonResponse(fields, 200 if model.ready else 503)

    async def infer(self, request: Request) -> Response:
        """Run a model."""
        self._model(request)
        body = await read_body(request, self._limit)
        request.state.received = len(body)
        model = self._model(request)  # it may have been replaced meanwhile
        size = request.headers.get(_SIZE_HEADER)
        asked = read_request(body, size, model.inputs, self._rows)
        tensors = asked.tensors
        x = next(iter(tensors.values())) if len(tensors) == 1 else tensors
        with part_of_trace(request.headers):
            result = await _unless_gone(request, model.run(x))
        answer = write_answer(result, asked, model.name, model.config.version, model.outputs)
        if answer.json_size is None:
            return Response(answer.body, media_type="application/json")
        headers = {_SIZE_HEADER: str(answer.json_size)}
        return Response(answer.body, headers=headers, media_type="application/octet-stream")

    def _model(self, request: Request) -> ServedModel:
        name = request.path_params["model"]
        model = self._models.get(name)
        if model is None:
            raise Refusal(f"there is no model {name!r}", 404)
        asked = request.path_params.get("version", model.config.version)
        if asked != model.config.version:
            known = model.config.version
            raise Refusal(f"the model {name!r} has no version {asked!r}; it has {known!r}", 404)
        return model

    def _answering_errors(self, handler: Handler) -> Handler:
        counted = handler == self.infer

        async def answer(request: Request) -> Response:
            started = perf_counter()
            try:
                response = await handler(request)
            except Exception as error:
                response = answer_to(request, error)
            name = request.path_params.get("model")
            if counted and name is not None and self._models.get(name) is not None:
                received, sent = getattr(request.state, "received", 0), len(response.body)
                self._count(name, response.status_code, started, received, sent)
            return response

        return answer


async def _unless_gone(request: Request, running: Coroutine[Any, Any, T]) -> T:
    """The result of what runs for a client; given up if that hangs up, so that others get on.

    Raises:
        ClientDisconnect: The client is gone.
    """
    work = asyncio.ensure_future(running)
    try:
        await asyncio.wait([work], timeout=_PATIENCE)
        if not work.done():
            gone = asyncio.ensure_future(_hangs_up(request))
            await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        work.cancel()


async def _hangs_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
