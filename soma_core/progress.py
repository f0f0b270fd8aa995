"""Progress reports of a running filter, and who listens to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["is_wanted", "listening", "report"]

Report = dict[str, Any]
Listener = Callable[[Report], None]

_listener: ContextVar[Listener | None] = ContextVar("soma_progress_listener", default=None)


def report(**fields: Any) -> None:
    """Tell the host how far a command is; does nothing when the host did not ask.

    Call it from ``fit`` or ``forward`` as often as you like::

        progress.report(epoch=3, epochs=10, loss=0.12)

    Args:
        fields: JSON-able numbers and texts. What is shown of them: ``epoch`` of ``epochs``,
            ``batch`` of ``batches``, all from 1, and ``loss``, or ``mean_loss`` for the mean of
            the epoch so far.
    """
    listener = _listener.get()
    if listener is not None:
        listener(fields)


def is_wanted() -> bool:
    """Whether the host asked for reports; ask where finding out what to report takes time."""
    return _listener.get() is not None


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Within the block, hand every report to the listener.

    Args:
        listener: Called with the fields of each report; None for nobody.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
