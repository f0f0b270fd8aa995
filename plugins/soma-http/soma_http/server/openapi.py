"""What a server answers to, as an OpenAPI document made of the models of its messages."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from soma_http.server.inference.messages import (
    IndexRequest,
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
)
from soma_http.server.responses import JsonResponse


class Error(BaseModel):
    """Why a request was not answered."""

    error: str


class ServerMetadata(BaseModel):
    """What this server is."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """Whether the server answers at all."""

    live: bool


class Ready(BaseModel):
    """Whether all models can be asked."""

    ready: bool


class ModelReady(BaseModel):
    """Whether a model can be asked."""

    name: str
    ready: bool


class ModelState(BaseModel):
    """A model in the list of all."""

    name: str
    version: str
    state: str
    reason: str


_MODELS = (
    Error, IndexRequest, InferenceRequest, InferenceResponse, Live, ModelMetadata, ModelReady,
    ModelState, Ready, ServerMetadata,
)  # fmt: skip
_REF = "#/components/schemas/{model}"


@cache
def document() -> dict[str, Any]:
    """The document."""
    _, schemas = models_json_schema(
        [(model, "serialization") for model in _MODELS], ref_template=_REF
    )
    model = "/v2/models/{model}"
    paths = {
        "/v2": _get("What this server is.", ServerMetadata),
        "/v2/health/live": _get("Whether the server answers at all.", Live, probe=True),
        "/v2/health/ready": _get("Whether all models can be asked.", Ready, probe=True),
        "/v2/repository/index": {"post": _index()},
    }
    for path in (model, f"{model}/versions/{{version}}"):
        names = [name for name in ("model", "version") if f"{{{name}}}" in path]
        paths |= {
            path: _with(names, _get("What a model is.", ModelMetadata)),
            f"{path}/ready": _with(names, _get("Whether a model can be asked.", ModelReady)),
            f"{path}/infer": _with(names, {"post": _infer()}),
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "soma: Open Inference Protocol", "version": version("soma-http")},
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": _REF.format(model=model.__name__)}


def _json(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _operation(summary: str, answer: type[BaseModel] | list[type[BaseModel]]) -> dict[str, Any]:
    schema = (
        {"type": "array", "items": _ref(answer[0])} if isinstance(answer, list) else _ref(answer)
    )
    failed = _json(_ref(Error), "Why not.")
    return {"summary": summary, "responses": {"200": _json(schema, summary), "default": failed}}


def _get(summary: str, answer: type[BaseModel], *, probe: bool = False) -> dict[str, Any]:
    operation = _operation(summary, answer)
    if probe:
        operation |= {"security": []}
        operation["responses"]["503"] = _json(_ref(answer), "Not now.")
    return {"get": operation}


def _index() -> dict[str, Any]:
    body = {"content": {"application/json": {"schema": _ref(IndexRequest)}}}
    return _operation("The models.", [ModelState]) | {"requestBody": body}


def _infer() -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    operation = _operation("Run a model.", InferenceResponse)
    operation["responses"]["200"]["content"]["application/octet-stream"] = binary
    operation["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {"schema": _ref(InferenceRequest)},
            "application/octet-stream": binary,
        },
    }
    operation["parameters"] = [
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "description": "How long the JSON is, where the bytes of tensors follow it.",
            "schema": {"type": "integer", "minimum": 0},
        }
    ]
    return operation


def _with(names: list[str], item: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    return {"parameters": parameters, **item}


async def show(request: Request) -> Response:
    """Answer with the document."""
    return JsonResponse(document())
