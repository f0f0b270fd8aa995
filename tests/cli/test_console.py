"""What the commands print of names and messages that came from elsewhere is text."""

from __future__ import annotations

import json

import pytest
from rich.text import Text

from soma_core.cli import console

HOSTILE = "a\x1b]0;title\x07\x1b[31m\x9b2J\rb\u202ec"


def test_nothing_that_is_printed_controls_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    rows = console.table("name")
    rows.add_row(Text(HOSTILE))
    console.console().print(rows)
    console.print_table(rows)
    console.print_json({"name": HOSTILE})
    console.note(HOSTILE)
    console.print_error(HOSTILE)
    printed = "".join(capsys.readouterr())
    assert not set(printed) & {"\x1b", "\x07", "\x9b", "\r"}
    assert printed.count("\N{REPLACEMENT CHARACTER}]0;title") == 4


def test_json_is_what_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"name": HOSTILE})
    assert json.loads(capsys.readouterr().out) == {"name": HOSTILE}
