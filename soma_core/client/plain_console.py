"""A console on which what came from elsewhere is text: nothing of it moves the cursor or worse."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment

_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F)]
_CONTROLS += range(0x2066, 0x206A)  # with those before: what turns the direction of text
_SHOWN = dict.fromkeys(set(_CONTROLS) - {ord("\n"), ord("\t")}, "\N{REPLACEMENT CHARACTER}")


def printable(text: str) -> str:
    """The text with each control character shown as one that controls nothing."""
    return text.translate(_SHOWN)


class PlainConsole(Console):
    """A console of rich's: styles and layouts are its own, whatever a name or message holds."""

    def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
        for segment in super().render(*arguments, **options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
