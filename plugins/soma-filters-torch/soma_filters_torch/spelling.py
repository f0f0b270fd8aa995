"""Spelling: what to say about a name that means nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["unknown"]


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """A message about an unknown name: the closest known ones, or else all of them."""
    names = sorted(known)
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3)
    if close:
        meant = " or ".join(repr(by_lower[match]) for match in close)
        return f"unknown {what} {name!r}; did you mean {meant}?"
    return f"unknown {what} {name!r}; known: {', '.join(names)}"
