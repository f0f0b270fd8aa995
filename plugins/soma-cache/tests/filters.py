"""Filters that count how often they run."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydantic import Field

import soma_core as soma

__all__ = ["RUNS", "Counted", "Learning", "Pairs", "Returning", "Saying"]

RUNS: Counter[str] = Counter()
"""How often each filter ran, by its name."""


class Counted(soma.Filter):
    """Multiplies, and counts."""

    factor: float = 2.0
    name: str = "counted"

    def forward(self, x: Any, state: Any) -> Any:
        RUNS[self.name] += 1
        return x * self.factor


class Learning(Counted):
    """Learns a mean, and takes it away."""

    def fit(self, x: Any, y: Any = None) -> Any:
        return {"mean": x.mean()}

    def forward(self, x: Any, state: Any) -> Any:
        RUNS[self.name] += 1
        return x - state.get("mean", 0.0)


class Saying(Counted):
    """Says of itself what it is told to."""

    says: dict[str, Any] = Field(default_factory=dict)

    def meta(self) -> soma.FilterMeta:
        return super().meta().replace(**self.says)


class Pairs(Counted):
    """Returns what only a pickle keeps."""

    def forward(self, x: Any, state: Any) -> Any:
        RUNS[self.name] += 1
        return slice(1, x)


class Returning(Counted):
    """Returns what it is given, whatever that is."""

    def forward(self, x: Any, state: Any) -> Any:
        RUNS[self.name] += 1
        return x
