"""WaitingCalls: the calls that wait, by priority and in order, and those that are alike."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator

from soma_core.client.pool.call import PoolCall


class WaitingCalls:
    """Calls in the order in which they are to be run. Not thread-safe."""

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[PoolCall, None]] = {}
        self._alike: dict[Hashable, OrderedDict[PoolCall, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[PoolCall]:
        """The calls, in no particular order of their priorities."""
        return (call for level in self._levels.values() for call in level)

    def add(self, call: PoolCall, *, first: bool = False) -> None:
        """Add a call behind those of its priority, or before them."""
        level = self._levels.get(call.priority)
        if level is None:
            level = self._levels[call.priority] = OrderedDict()
        level[call] = None
        self._count += 1
        if first:
            level.move_to_end(call, last=False)
        if call.joinable is not None:
            alike = self._alike.get(call.joinable.key)
            if alike is None:
                alike = self._alike[call.joinable.key] = OrderedDict()
            alike[call] = None

    def first(self) -> PoolCall:
        """The next call to be run; there must be one."""
        levels = self._levels
        return next(iter(levels[max(levels)]))

    def remove(self, call: PoolCall) -> bool:
        """Take a call out; returns whether it was there."""
        level = self._levels.get(call.priority)
        if level is None or call not in level:
            return False
        del level[call]
        self._count -= 1
        if not level:
            del self._levels[call.priority]
        if call.joinable is not None:
            alike = self._alike[call.joinable.key]
            del alike[call]
            if not alike:
                del self._alike[call.joinable.key]
        return True

    def alike(self, call: PoolCall) -> list[PoolCall]:
        """The calls that may be joined with a joinable one, the most urgent ones first."""
        assert call.joinable is not None
        found = list(self._alike.get(call.joinable.key, ()))
        return found if len(self._levels) <= 1 else sorted(found, key=lambda call: -call.priority)
