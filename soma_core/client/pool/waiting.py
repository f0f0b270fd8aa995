"""WaitingCalls: the calls that wait, by priority and in order, and those that are alike."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import TypeVar

from soma_core.client.pool.call import Call

__all__ = ["WaitingCalls"]

K = TypeVar("K", bound=Hashable)


class WaitingCalls:
    """Calls in the order in which they are to be run. Not thread-safe."""

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[Call, None]] = {}
        self._alike: dict[Hashable, OrderedDict[Call, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, list(self._levels.values())))

    def __iter__(self) -> Iterator[Call]:
        """The calls, in no particular order of their priorities."""
        return (call for level in self._levels.values() for call in level)

    def add(self, call: Call, *, first: bool = False) -> None:
        """Add a call behind those of its priority, or before them."""
        level = self._levels.setdefault(call.priority, OrderedDict())
        level[call] = None
        if first:
            level.move_to_end(call, last=False)
        if call.joinable is not None:
            self._alike.setdefault(call.joinable.key, OrderedDict())[call] = None

    def first(self) -> Call:
        """The next call to be run; there must be one."""
        return next(iter(self._levels[max(self._levels)]))

    def remove(self, call: Call) -> bool:
        """Take a call out; returns whether it was there."""
        if call not in self._levels.get(call.priority, ()):
            return False
        _take_out(self._levels, call.priority, call)
        if call.joinable is not None:
            _take_out(self._alike, call.joinable.key, call)
        return True

    def alike(self, call: Call) -> list[Call]:
        """The calls that may be joined with a joinable one, the most urgent ones first."""
        assert call.joinable is not None
        found = list(self._alike.get(call.joinable.key, ()))
        return found if len(self._levels) <= 1 else sorted(found, key=lambda call: -call.priority)


def _take_out(groups: dict[K, OrderedDict[Call, None]], key: K, call: Call) -> None:
    del groups[key][call]
    if not groups[key]:
        del groups[key]
