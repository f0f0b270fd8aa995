"""Failures: what a host learns of an exception that ended its command."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from types import NoneType
from typing import Any

from soma_core.engine.loading import Misconfigured
from soma_core.engine.nodes import FilterFailed
from soma_core.errors import ErrorCode, ProtocolError, RemoteError
from soma_core.raised import Raised, shortened

OF_SOMA = f"{Path(__file__).parents[1]}{os.sep}"
"""The folder of soma's own code."""

_WITH_TRACEBACK = frozenset(
    {
        ErrorCode.LOAD_FAILED,
        ErrorCode.FILTER_FAILED,
        ErrorCode.INTERRUPTED,
        ErrorCode.INTERNAL,
    }
)


def describe_failure(error: BaseException) -> dict[str, Any]:
    """The fields of the error reply for an exception; none of them is None.

    Whatever the exception is of, and whatever its methods do, this raises nothing.
    """
    code, shown, node_id = _classify(error)
    hint = f"; {error.hint}" if isinstance(error, FilterFailed) and error.hint else ""
    fields: dict[str, Any] = {
        "error": shortened(_text(shown) + hint),
        "code": code,
        "type": _type_name(shown),
        "node_id": node_id,
        "meta": _said_by_plugins(error),
        "executed": _was_executed(error) or None,
    }
    if code in _WITH_TRACEBACK and not _says_all(shown):
        fields["exception"] = _raised(shown)
        if not isinstance(shown, Misconfigured):
            fields["traceback"] = shortened(_traceback(shown))
    return {name: field for name, field in fields.items() if field is not None}


def note_executed(error: BaseException) -> None:
    """Note at the exception that ends a command that it was executed, or a part of it."""
    vars(error)["executed"] = True


def _classify(error: BaseException) -> tuple[ErrorCode, BaseException, str | None]:
    """The code of an exception, the exception to show, and the node that it is about."""
    if isinstance(error, FilterFailed):
        return ErrorCode.FILTER_FAILED, error.cause, error.node_id
    if isinstance(error, ProtocolError):
        return error.code, error, error.node_id
    if isinstance(error, KeyboardInterrupt):
        return ErrorCode.INTERRUPTED, error, None
    return ErrorCode.INTERNAL, error, None


def _was_executed(error: BaseException) -> bool:
    try:
        return getattr(error, "executed", None) is True
    except BaseException:
        return False


def _said_by_plugins(error: BaseException) -> dict[str, Any] | None:
    """What wrappers of ``soma_execute`` noted at an exception that passed them."""
    try:
        said = getattr(error, "meta", None)
    except BaseException:
        return None
    return said if type(said) is dict else None


def _says_all(shown: BaseException) -> bool:
    """Whether soma found the mistake itself, so that a traceback would show nothing of the user."""
    return isinstance(shown, ProtocolError) and isinstance(
        shown.__cause__, ProtocolError | NoneType
    )


def _type_name(shown: BaseException) -> str:
    named = shown.remote_type if isinstance(shown, ProtocolError | RemoteError) else None
    return named or type(shown).__name__


def exception_of(error: BaseException) -> BaseException:
    """The exception that the reply tells of: of an error of soma about another one, that one."""
    shown = _classify(error)[1]
    return shown.__cause__ if isinstance(shown, ProtocolError) and shown.__cause__ else shown


def _raised(shown: BaseException) -> Raised | None:
    try:
        raised = Raised.of(exception_of(shown), leave_out=OF_SOMA)
    except BaseException:  # the exception is of the user's class, and may do anything
        return None
    if isinstance(shown, Misconfigured):
        return raised.model_copy(update={"stack": [], "cause": None, "context": None})
    return raised


def _text(shown: BaseException) -> str:
    try:
        return str(shown) or type(shown).__name__
    except BaseException:
        return type(shown).__name__


def _traceback(shown: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(shown))
    except BaseException:
        return "".join(traceback.format_tb(shown.__traceback__))
