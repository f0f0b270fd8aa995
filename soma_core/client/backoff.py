"""Backoff: how long to wait before the next of several tries in a row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Backoff:
    """Waits nothing before the first try, then ever longer, and counts the tries.

    Attributes:
        first: Seconds before the second try; each wait after it is twice as long.
        cap: The longest wait, in seconds.
        budget: How many tries there may be in a row; None for any number.
        spent: How many there were since the last success.
    """

    first: float = 0.1
    cap: float = 5.0
    budget: int | None = None
    spent: int = 0

    @property
    def exhausted(self) -> bool:
        """Whether no further try is left."""
        return self.budget is not None and self.spent >= self.budget

    def next_delay(self) -> float:
        """Count one more try, and say how many seconds to wait before it."""
        self.spent += 1
        if self.spent == 1:
            return 0.0
        return min(self.first * 2.0 ** min(self.spent - 2, 32), self.cap)

    def reset(self) -> None:
        """A try succeeded: the next failure is the first again."""
        self.spent = 0
