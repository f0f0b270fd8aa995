"""Whether a worker of a pool can be used on, whatever became of a call."""

from __future__ import annotations

from soma_core.errors import DeadlineExceeded, TransportError

__all__ = ["ends_worker"]


def ends_worker(error: BaseException) -> bool:
    """Whether the worker of a call that raised this cannot be used on."""
    if isinstance(error, DeadlineExceeded):
        return not error.worker_survived
    return isinstance(error, TransportError)
