"""Filters that any worker can import, so that they travel by name."""

from __future__ import annotations

from typing import Any

from soma_core.filters import Filter

__all__ = ["Echo"]


class Echo(Filter):
    """Learns the last thing that it was fitted with, and returns its input."""

    def fit(self, x: Any, y: Any = None) -> Any:
        """Return the state."""
        return {"learned": x}

    def forward(self, x: Any, state: Any) -> Any:
        """Return the input."""
        return x
