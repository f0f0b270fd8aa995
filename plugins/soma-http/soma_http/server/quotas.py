"""What one token may use: requests at once, and their time in each minute."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

_WINDOW = 60.0  # seconds


@dataclass
class _Usage:
    """What a token uses.

    Attributes:
        running: Its requests and WebSockets that are open.
        spent: Seconds of its requests, by the second in which they ended.
    """

    running: int = 0
    spent: deque[tuple[int, float]] = field(default_factory=deque)

    def spend(self, now: float, seconds: float) -> None:
        if self.spent and self.spent[-1][0] == int(now):
            seconds += self.spent.pop()[1]
        self.spent.append((int(now), seconds))

    def forget(self, now: float) -> None:
        while self.spent and self.spent[0][0] <= now - _WINDOW:
            self.spent.popleft()


class Quotas:
    """Limits of each token, whoever uses it.

    Args:
        most: Requests and WebSockets at once; None for any number.
        seconds: Seconds that its requests may take together in each minute; None for any.
        clock: Tells the time.
    """

    def __init__(
        self, most: int | None, seconds: float | None, clock: Callable[[], float] = monotonic
    ) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._used: dict[bytes, _Usage] = {}

    def refusal(self, holder: bytes) -> tuple[str, int] | None:
        """Why a token may not ask now, and in how many seconds it may; None if it may."""
        used, now = self._used.get(holder), self._clock()
        if used is None:
            return None
        if self._most is not None and used.running >= self._most:
            return f"this token has as many requests at once as it may ({self._most})", 1
        used.forget(now)
        if self._seconds is None or sum(spent for _, spent in used.spent) < self._seconds:
            return None
        text = f"this token has used the {self._seconds:g} s that it has in a minute"
        return text, int(used.spent[0][0] + _WINDOW - now) + 1

    @contextmanager
    def running(self, holder: bytes, *, timed: bool) -> Iterator[None]:
        """For the time of a request; seconds count if it is timed, which a WebSocket is not."""
        used, begun = self._used.setdefault(holder, _Usage()), self._clock()
        used.running += 1
        try:
            yield
        finally:
            used.running -= 1
            if timed and self._seconds is not None:
                now = self._clock()
                used.spend(now, now - begun)
