"""Validate: JSON Lines of messages checked without running them, or unpickling anything."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, BinaryIO

import typer
from pydantic import ValidationError

from soma_core.cli.console import CommandFailed, note
from soma_core.client.plain_console import printable
from soma_core.errors import ProtocolError
from soma_core.models.regular_file import open_at_once
from soma_core.plugins.checking import check_command, check_reply
from soma_core.wire.parser import StreamLimits

_RECORDING = b'{"soma_recording"'
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def validate(
    file: Annotated[str, typer.Argument(help="One JSON message on each line; '-' is stdin.")],
    replies: Annotated[
        bool, typer.Option("--replies", help="Check replies and events instead of commands.")
    ] = False,
) -> None:
    """Check messages without running them, and print each invalid one with the reason.

    Exits with 1 if any is invalid.
    """
    check = check_reply if replies else check_command
    total = bad = 0
    with _opened(file) as lines:
        for number, line in _messages(lines):
            total += 1
            try:
                check(line)
            except ProtocolError as error:
                bad += 1
                typer.echo(printable(f"line {number}: {error}"))
    note(f"{total:,} {'messages' if total != 1 else 'message'}, {bad or 'none'} bad")
    if bad:
        raise typer.Exit(1)


def _opened(file: str) -> AbstractContextManager[BinaryIO]:
    if file == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return open_at_once(file)
    except OSError as error:
        raise CommandFailed(f"cannot read {file}: {error.strerror}") from None


def _longest_line() -> int:
    try:
        return StreamLimits.from_environment().line
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise CommandFailed(f"SOMA_LIMITS is no JSON object of limits: {problem}") from None


def _messages(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, by number, without what surrounds their message."""
    longest = _longest_line()
    for number, line in enumerate(iter(lambda: file.readline(longest + 1), b""), start=1):
        if len(line) > longest:
            raise CommandFailed(f"line {number} is longer than {longest:,} bytes, the limit")
        message = line.strip().removeprefix(_BYTE_ORDER_MARK).strip()
        if number == 1 and message.startswith(_RECORDING):
            raise CommandFailed(
                "this is a recording, and its entries are no messages; soma replay runs it, and "
                "jq -c 'select(.direction == \"command\").message' prints the commands of lines"
            )
        if message:
            yield number, message
