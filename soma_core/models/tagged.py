"""The protocol's spelling of a tagged choice: ``Tag("gpu")`` in Python is ``{"Tag": "gpu"}``."""

from __future__ import annotations

from typing import Any

__all__ = ["named"]


def named(name: str, value: tuple[Any, ...], fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a one-field model that may be built by position.

    Raises:
        TypeError: More than one value was given.
    """
    if len(value) > 1 or (value and fields):
        raise TypeError(f"{name} takes exactly one value")
    return {name: value[0]} if value else fields
