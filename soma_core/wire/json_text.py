"""JSON text as the protocol reads and writes it: fast, and with what Python's own JSON allows."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import from_json, to_json

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.wire.line_codec import MAX_NESTING

_QUOTED = 80  # bytes of what is not JSON that its error shows


def write_json(content: Any) -> bytes:
    """The JSON text of plain data and of models in it, as UTF-8."""
    try:
        return to_json(content, inf_nan_mode="constants")
    except ValueError:  # text with lone surrogates is not UTF-8; escaped it is JSON all the same
        return json.dumps(content, default=lambda model: model.model_dump(mode="json")).encode()


def read_json(text: bytes) -> Any:
    """Parse JSON; bare NaN and lone surrogates are accepted.

    Raises:
        ProtocolError: ``malformed``.
    """
    try:
        return from_json(text)
    except ValueError as error:
        if b"\\ud" in text.lower():  # a lone surrogate is JSON, but not for the fast parser
            return _read_with_surrogates(text, error)
        raise _invalid(text, error) from None


def _read_with_surrogates(text: bytes, first_error: ValueError) -> Any:
    try:
        parsed = json.loads(text.decode())
    except (ValueError, RecursionError):
        raise _invalid(text, first_error) from None
    if _nests_deeper(parsed, MAX_NESTING):
        raise ProtocolError(ErrorCode.MALFORMED, f"the message nests deeper than {MAX_NESTING}")
    return parsed


def _nests_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, list | dict):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_nests_deeper(item, levels - 1) for item in inner)


def _invalid(text: bytes, error: ValueError) -> ProtocolError:
    start = bytes(text[:_QUOTED]).decode("utf-8", "replace")
    more = "…" if len(text) > _QUOTED else ""
    return ProtocolError(ErrorCode.MALFORMED, f"invalid JSON: {error}: {start!r}{more}")
