"""What must not live on in a forked child: wires and lifelines that belong to the parent."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

__all__ = ["close_in_forked_child"]


class _Closable(Protocol):
    def close(self) -> None: ...


_resources: WeakSet[_Closable] = WeakSet()


def close_in_forked_child(resource: _Closable) -> None:
    """Close a socket in every child that this process forks from now on.

    Without it a forked child would hold the other end open, and hide the death of its parent.
    """
    _resources.add(resource)


def _close_all() -> None:
    for resource in list(_resources):
        resource.close()


os.register_at_fork(after_in_child=_close_all)
