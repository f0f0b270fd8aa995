"""Models made of fields that need no validation: computed on this side, or validated before."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

__all__ = ["validated"]

M = TypeVar("M", bound=BaseModel)

_set = object.__setattr__


def validated(model: type[M], fields: dict[str, Any], fields_set: set[str]) -> M:
    """A model as validation would make it.

    Args:
        model: Its class, which has no private attributes.
        fields: All of its fields, those with a default included; they become its own.
        fields_set: Those that did not take their default.
    """
    made = model.__new__(model)
    _set(made, "__dict__", fields)
    _set(made, "__pydantic_fields_set__", fields_set)
    _set(made, "__pydantic_extra__", None)
    _set(made, "__pydantic_private__", None)
    return made
