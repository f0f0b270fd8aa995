"""What an error of a call is to who sent the request."""

from __future__ import annotations

import soma_core as soma
from soma_http.server.inference.datatypes import Refused

__all__ = ["Failure", "failure_of"]

_OF_THE_INPUT = (ValueError, TypeError, LookupError, ArithmeticError)


class Failure(Exception):
    """An answer that is an error.

    Args:
        status: The HTTP status.
        text: What to say.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def failure_of(error: Exception) -> Failure | None:
    """What to answer for an error; None if it is nobody's but this server's.

    A model that raises what Python raises for a wrong value is taken to have been asked wrongly.
    """
    if isinstance(error, Refused):
        return Failure(error.status, str(error))
    if isinstance(error, soma.QueueFull):
        return Failure(503, "as many requests wait for the model as may; try again later")
    if isinstance(error, soma.DeadlineExceeded):
        return Failure(504, "the model did not answer in time")
    if isinstance(error, soma.RemoteError):
        wrong = error.code is soma.ErrorCode.SCHEMA_MISMATCH or isinstance(error, _OF_THE_INPUT)
        said = f"{error.remote_type}: {error}" if error.remote_type else str(error)
        return Failure(400 if wrong else 500, f"the model failed: {said}")
    if isinstance(error, soma.WorkerDied):
        return Failure(503, "the worker of the model ended; it is being replaced")
    if isinstance(error, soma.StartFailed | soma.ChannelClosed):
        return Failure(503, f"the model is not ready: {error}")
    return None
