"""Watching a command: who gets its reports: nobody, a function, or the screen."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from soma_core.models import rows
from soma_core.progress import Listener, Report

Watch = Listener | bool | None
"""``True`` shows the reports on stderr, a function is called with each, else nobody gets them."""


def watched(watch: Watch, titles: Iterable[str], x: Any) -> AbstractContextManager[Listener | None]:
    """Within the context, whoever is to get a command's reports: a function, or None.

    Args:
        watch: Who that is.
        titles: What the command is about, for the screen.
        x: The data, for its number of rows.

    Raises:
        TypeError: ``watch`` is something else.
    """
    if watch is None or watch is False:
        return nullcontext()
    if watch is True:
        from soma_core.client.progress.display import (
            ProgressDisplay,  # what draws is imported where it is used
        )

        title = " → ".join(map(str, titles))
        return ProgressDisplay.on_stderr(title, rows.count_if_equal(x))
    if callable(watch):
        return nullcontext(watch)
    raise TypeError(f"progress is True, False, or a function of a report; got {watch!r}")


def each_of(*listeners: Listener) -> Listener:
    """A function that hands a report to each of several, in order."""

    def tell(report: Report) -> None:
        for listener in listeners:
            listener(report)

    return tell
