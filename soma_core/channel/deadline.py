"""Deadline: the moment by which something must have happened, if there is one."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import Self


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the clock of :func:`time.monotonic`; None never comes.

    Attributes:
        at: The moment, in seconds.
    """

    at: float | None = None

    @classmethod
    def after(cls, seconds: float | None) -> Self:
        """The moment so many seconds from now.

        Args:
            seconds: How many; None for no deadline.
        """
        return cls(None if seconds is None else monotonic() + seconds)

    def left(self) -> float | None:
        """Seconds until it, 0 once it has passed; None without a deadline."""
        return None if self.at is None else max(0.0, self.at - monotonic())

    def over(self) -> bool:
        """Whether it has passed."""
        return self.at is not None and monotonic() >= self.at

    def within(self, seconds: float | None) -> Deadline:
        """The earlier of this one and the moment so many seconds from now.

        Args:
            seconds: How many; None for no other moment.
        """
        other = Deadline.after(seconds)
        moments = [moment for moment in (self.at, other.at) if moment is not None]
        return Deadline(min(moments, default=None))


NEVER = Deadline()
"""The moment that never comes."""
