"""What the models of filters and schemas have in common: immutable, and no unknown fields.

A tagged choice such as ``Tag("gpu")``, in JSON ``{"Tag": "gpu"}``, is a pydantic dataclass whose
one field has the name of its class: built by position, validated, and typed for checkers.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

NO_EXTRA = ConfigDict(extra="forbid", defer_build=True)
"""The configuration of a dataclass that refuses unknown fields."""


class Frozen(BaseModel):
    """A model that is immutable and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, **NO_EXTRA)
