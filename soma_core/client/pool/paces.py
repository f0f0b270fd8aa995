"""Paces: how long the calls of a pool take, to tell which of them are quick."""

from __future__ import annotations

import math

__all__ = ["Paces"]

_EASING = 0.8  # how much of a long time is still counted at the next call


class Paces:
    """How long the calls of each label take: the longest of the last ones."""

    def __init__(self) -> None:
        self._longest: dict[str | None, float] = {}

    def of(self, label: str | None) -> float:
        """Seconds; infinite for what never ran."""
        return self._longest.get(label, math.inf)

    def add(self, label: str | None, seconds: float) -> None:
        """A call took so many seconds."""
        self._longest[label] = max(seconds, self._longest.get(label, 0.0) * _EASING)
