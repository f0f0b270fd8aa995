"""Paces: how long the calls of a pool take, to tell which of them are quick."""

from __future__ import annotations

import math

_USUAL = 0.005  # seconds that a quick call takes at most, on the average of the last ones
_LONGEST = 0.05  # and that none of the last ones took: a busy machine may hold up some of them
_NEW = 0.1  # how much the newest call counts in the average
_EASING = 0.9  # how much of a long time is still counted at the next call


class Paces:
    """How long the last calls of each label took."""

    def __init__(self) -> None:
        self._usual: dict[str | None, float] = {}
        self._longest: dict[str | None, float] = {}

    def usual(self, label: str | None) -> float:
        """Seconds, on the average; infinite for what never ran."""
        return self._usual.get(label, math.inf)

    def is_quick(self, label: str | None) -> bool:
        """Whether a call is sure to be quick, as far as one can know."""
        return self.usual(label) <= _USUAL and self._longest[label] <= _LONGEST

    def add(self, label: str | None, seconds: float) -> None:
        """A call took so many seconds."""
        usual = self._usual.get(label, seconds)
        self._usual[label] = usual + (seconds - usual) * _NEW
        self._longest[label] = max(seconds, self._longest.get(label, 0.0) * _EASING)
