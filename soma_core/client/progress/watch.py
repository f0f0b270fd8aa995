"""Watching a command: who gets its reports: nobody, a function, or the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from soma_core.models import rows

__all__ = ["Report", "Watch", "count_rows", "each_of", "watched"]

Report = dict[str, Any]
Watch = Callable[[Report], None] | bool | None
"""``True`` shows the reports on stderr, a function is called with each, else nobody gets them."""


def watched(
    watch: Watch, titles: Iterable[str], x: Any
) -> AbstractContextManager[Callable[[Report], None] | None]:
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
        return ProgressDisplay.on_stderr(title, count_rows(x))
    if callable(watch):
        return nullcontext(watch)
    raise TypeError(f"progress is True, False, or a function of a report; got {watch!r}")


def each_of(*listeners: Callable[[Report], None]) -> Callable[[Report], None]:
    """A function that hands a report to each of several, in order."""

    def tell(report: Report) -> None:
        for listener in listeners:
            listener(report)

    return tell


def count_rows(x: Any) -> int | None:
    """The number of rows of some data, for the rate; None if it has none, or not one number."""
    with suppress(ValueError):
        return rows.count(x)
    return None
