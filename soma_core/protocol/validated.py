"""Models made of fields that need no validation: computed on this side, or validated before."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

__all__ = ["validated"]

M = TypeVar("M", bound=BaseModel)

_make = object.__new__
_set_fields = object.__setattr__
_set_fields_set, _set_extra, _set_private = (
    vars(BaseModel)[slot].__set__
    for slot in ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)


def validated(model: type[M], fields: dict[str, Any], fields_set: set[str]) -> M:
    """A model as validation would make it.

    Args:
        model: Its class, which has no private attributes.
        fields: All of its fields, those with a default included; they become its own.
        fields_set: Those that did not take their default.
    """
    made = _make(model)
    _set_fields(made, "__dict__", fields)
    _set_fields_set(made, fields_set)
    _set_extra(made, None)
    _set_private(made, None)
    return made
