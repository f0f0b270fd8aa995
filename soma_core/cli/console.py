"""Console: how the commands write, to a person in a terminal or to a file or pipe."""

from __future__ import annotations

import json
import re
import sys
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from soma_core.client.plain_console import PlainConsole
from soma_core.errors import SomaError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")]
"""The option ``--json`` of a command that lists something."""

_UNLIMITED = 10_000  # columns: lines for a program are not wrapped


class CommandFailed(SomaError):
    """A command cannot do what was asked; the message explains why and what to do."""


def console() -> PlainConsole:
    """The console on stdout, as wide as the terminal; 100 columns where there is none."""
    probe = PlainConsole()
    return probe if probe.is_terminal else PlainConsole(width=100)


def print_table(rows: Table) -> None:
    """A table on stdout. In a pipe a program may read its lines: they are not wrapped or padded."""
    probe = PlainConsole()
    if probe.is_terminal:
        probe.print(rows)
        return
    wide = PlainConsole(width=_UNLIMITED)
    with wide.capture() as capture:
        wide.print(rows)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    sys.stdout.write("\n".join([*lines, ""]))


def table(*columns: str) -> Table:
    """A table without ruled lines, so that its rows are as good for grep as for the eye."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_error(message: object) -> None:
    """Print an error in red on stderr, on one line."""
    text = Text.assemble(("error: ", "bold red"), (" ".join(str(message).split()), "red"))
    PlainConsole(stderr=True).print(text, soft_wrap=True)


def note(message: str) -> None:
    """Print one line on stderr; stdout is for the output of the command."""
    PlainConsole(stderr=True, highlight=False).print(Text(message), soft_wrap=True)


def print_json(document: Any) -> None:
    """A JSON document on stdout; control characters beyond those of ASCII are escaped, too."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    escaped = re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)
    sys.stdout.write(escaped + "\n")
