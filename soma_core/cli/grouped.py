"""Grouped: a listing under the distributions that its rows come from, long ones folded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from soma_core.cli.console import table
from soma_core.plugins.catalog import PluginInfo

_LONG = 20  # rows that need no attention
_SHOWN = 8  # of them


class Row(NamedTuple):
    """One row of a listing.

    Attributes:
        info: The plugin; its distribution decides where the row stands.
        cells: What to show beside its name.
        urgent: Whether it is shown even in a folded list.
    """

    info: PluginInfo
    cells: Sequence[Text]
    urgent: bool = False


def grouped(columns: Sequence[str], rows: Iterable[Row], *, fold: bool) -> Table:
    """A table with a line for each distribution, its rows below it, long lists perhaps folded."""
    made = table(*columns)
    placed = sorted(rows, key=lambda row: (*_distribution(row), row.info.name))
    for (distribution, version), members in groupby(placed, key=_distribution):
        made.add_row(Text(f"{distribution} {version}", "bold"))
        for row in _folded(list(members), fold):
            made.add_row(*row)
    return made


def _folded(rows: list[Row], fold: bool) -> Iterator[Sequence[Text]]:
    calm = [row for row in rows if not row.urgent]
    hidden = calm[_SHOWN:] if fold and len(calm) > _LONG else []
    kept = set(map(id, hidden))
    for row in rows:
        if id(row) not in kept:
            name = Text("  ").append(row.info.name, "red" if row.urgent else "cyan")
            yield [name, *row.cells]
    if hidden:
        yield [Text(f"  … and {len(hidden)} more (--all)", "dim")]


def _distribution(row: Row) -> tuple[str, str]:
    return row.info.distribution, row.info.version
