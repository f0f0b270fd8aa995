"""Locks of a process that a child of a fork may take: whoever held one is not there to let go."""

from __future__ import annotations

import os
from typing import Any, TypeVar

__all__ = ["free_in_forked_child"]

Lock = TypeVar("Lock")

_locks: list[Any] = []


def free_in_forked_child(lock: Lock) -> Lock:
    """Free a lock in every child that this process forks.

    Args:
        lock: One that lasts as long as the process: an ``RLock``, which stays with the thread that
            forks if that holds it, or a ``Lock``, under which nothing forks.
    """
    _locks.append(lock)
    return lock


def _free_all() -> None:
    for lock in _locks:
        owned = getattr(lock, "_is_owned", None)
        if owned is None or not owned():
            lock._at_fork_reinit()


os.register_at_fork(after_in_child=_free_all)
