"""What an error of a request is to who sent it."""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

import soma_core as soma
from soma_http.server.responses import JsonResponse

_log = logging.getLogger("soma.http")
_OF_THE_INPUT = (ValueError, TypeError, LookupError, ArithmeticError)
_GONE = 499  # as other servers log a client that did not wait; nobody is there to read it


class Refusal(Exception):
    """A request cannot be answered, for a reason that its sender may be told."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


async def answer(request: Request, error: Exception) -> Response:
    """:func:`answer_to` as Starlette calls it."""
    return answer_to(request, error)


def answer_to(request: Request, error: Exception) -> Response:
    """What to answer in place of an error."""
    if isinstance(error, HTTPException):
        return JsonResponse({"error": error.detail}, error.status_code, headers=error.headers)
    refusal = _refusal(error)
    if refusal is None:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        refusal = Refusal("the server failed; its log says why", 500)
    headers = {"Retry-After": "1"} if refusal.status == 503 else None
    return JsonResponse({"error": str(refusal)}, refusal.status, headers=headers)


def _refusal(error: Exception) -> Refusal | None:
    """What an error means; None if it is nobody's but this server's.

    A model that raises what Python raises for a wrong value is taken to have been asked wrongly.
    """
    match error:
        case Refusal():
            return error
        case ClientDisconnect():
            return Refusal("the client is gone", _GONE)
        case soma.QueueFull():
            return Refusal("as many requests wait for the model as may; try again later", 503)
        case soma.DeadlineExceeded():
            return Refusal("the model did not answer in time", 504)
        case soma.RemoteError():
            wrong = error.code is soma.ErrorCode.SCHEMA_MISMATCH or isinstance(error, _OF_THE_INPUT)
            said = f"{error.remote_type}: {error}" if error.remote_type else str(error)
            return Refusal(f"the model failed: {said}", 400 if wrong else 500)
        case soma.WorkerDied():
            return Refusal("the worker of the model ended; it is being replaced", 503)
        case soma.StartFailed() | soma.ChannelClosed():
            return Refusal(f"the model is not ready: {error}", 503)
    return None
