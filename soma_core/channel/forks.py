"""What a fork must not break: the parent's wires, and memory that a child still reads."""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from typing import Protocol
from weakref import WeakSet


class _Closable(Protocol):
    def close(self) -> None: ...


_resources: WeakSet[_Closable] = WeakSet()


def close_in_forked_child(resource: _Closable) -> None:
    """Close a socket in every child that this process forks from now on.

    Without it a forked child would hold the other end open, and hide the death of its parent.

    Args:
        resource: Anything with ``close()``; it is not kept alive.
    """
    _resources.add(resource)


def _close_all() -> None:
    for resource in list(_resources):
        resource.close()


class ForkedReaders:
    """Knows whether a child that was forked since some moment may still be there.

    A forked child shares the parent's mappings, so that memory which was lent to the parent must
    not be used again before the child is gone too. Each child inherits the writing end of a pipe
    and never touches it; the parent sees the end of the pipe when the child, and every child of
    its own, has ended.
    """

    def __init__(self) -> None:
        self._forks = 0
        self._asked = False
        self._alive: dict[int, int | None] = {}
        self._under_way: list[tuple[int, int] | None] = []  # a signal handler may fork, too
        self._lock = threading.RLock()  # or two forks at once would close each other's descriptors

    def watch(self) -> None:
        """Count the forks of this process from now on."""
        os.register_at_fork(
            before=self._before,
            after_in_parent=self._after_in_parent,
            after_in_child=self._after_in_child,
        )
        # Last, so that it is held around those; and not by them, whom Ctrl-C may keep from running.
        os.register_at_fork(
            before=self._lock.acquire,
            after_in_parent=self._lock.release,
            after_in_child=self._lock.release,
        )

    def mark(self) -> int:
        """This moment, for :meth:`gone_since`."""
        self._asked = True
        return self._forks

    def gone_since(self, mark: int) -> bool:
        """Whether every child that was forked since then has ended."""
        with self._lock:
            if mark == self._forks:
                return True
            self._forget_ended()
            return not any(number >= mark for number in self._alive)

    def _forget_ended(self) -> None:
        for number, descriptor in list(self._alive.items()):
            if descriptor is not None and _at_end(descriptor):
                del self._alive[number]
                os.close(descriptor)

    def _before(self) -> None:
        """In the parent just before a fork; without any memory lent, it costs nothing."""
        pipe = None
        try:
            if self._asked:
                self._forget_ended()
                with suppress(OSError):  # out of descriptors: that child counts as alive for ever
                    pipe = os.pipe()
        finally:
            self._under_way.append(pipe)

    def _pipe(self) -> tuple[int, int] | None:
        return self._under_way.pop() if self._under_way else None

    def _after_in_parent(self) -> None:
        if self._asked:
            self._alive[self._forks] = None
        pipe = self._pipe()
        if pipe is not None:
            self._alive[self._forks], writing = pipe
            os.close(writing)
        self._forks += 1

    def _after_in_child(self) -> None:
        """It has children of its own, and none yet."""
        inherited = [*self._alive.values(), *(self._pipe() or ())[:1]]
        for descriptor in inherited:
            if descriptor is not None:
                os.close(descriptor)
        self._forks += 1
        self._alive = {}


def _at_end(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))


forked_readers = ForkedReaders()
"""Of this process."""

os.register_at_fork(after_in_child=_close_all)
forked_readers.watch()
