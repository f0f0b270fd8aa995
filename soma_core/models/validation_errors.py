"""Validation errors of pydantic as one line, for the person who wrote the message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from soma_core.models.brief import brief

_MOST_ERRORS = 5


def describe(error: ValidationError, skip: int = 0) -> str:
    """Each problem as ``field: what is wrong, what came``, joined by semicolons.

    Args:
        error: What pydantic raised.
        skip: How many leading parts of each location mean nothing to the reader.
    """
    problems = error.errors(include_url=False)
    lines = list(dict.fromkeys(_line(problem, skip) for problem in problems))
    more = len(lines) - _MOST_ERRORS
    return "; ".join(lines[:_MOST_ERRORS]) + (f"; and {more} more" if more > 0 else "")


def _line(problem: Mapping[str, Any], skip: int) -> str:
    field = ".".join(str(part) for part in problem["loc"][skip:])
    reason: str = problem["msg"].removeprefix("Value error, ")
    prefix = f"{field}: " if field else ""
    if problem["type"] == "missing":
        return f"{prefix}this field is required"
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{prefix}there is no such field"
    if problem["type"] in ("value_error", "json_invalid"):
        return prefix + reason
    return f"{prefix}{reason[:1].lower()}{reason[1:]}, got {brief(problem['input'])}"
