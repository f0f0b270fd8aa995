"""Locks of a process that a child of a fork may take: whoever held one is not there to let go."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def renew_in_forked_child(owner: object, name: str, make: Callable[[], Any]) -> None:
    """Give an object another lock in every child that this process forks.

    A thread that forks while it holds the lock lets go of the one that it took.

    Args:
        owner: What has the lock, and lasts as long as the process.
        name: The attribute, which is asked for the lock each time.
        make: Makes one.
    """
    os.register_at_fork(after_in_child=lambda: setattr(owner, name, make()))
