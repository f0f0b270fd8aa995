"""Timeout: the argument of each call that says how many seconds it may take."""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal

__all__ = ["DEFAULT", "Timeout"]


class _Default(Enum):
    """Stands for the worker's own timeout where a call names none."""

    TIMEOUT = "the worker's timeout"


DEFAULT: Final = _Default.TIMEOUT
Timeout = float | None | Literal[_Default.TIMEOUT]
