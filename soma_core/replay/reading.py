"""Reading a recording: its calls one after the other; nothing in it is unpickled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from soma_core.client.recording.entries import (
    Direction,
    Entry,
    Section,
    message_fields,
    node_ids,
    read_line,
)
from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.regular_file import open_regular

_PIECE = 1 << 20  # bytes


@dataclass
class RecordedCall:
    """A command and what came of it.

    Attributes:
        section: Where it belongs.
        number: Which section of the file that is, from 1.
        command: The command.
        skipped: How many entries before it are not in the file: a ring had forgotten them.
        reply: Its reply, if one came.
        failure: The error that the host got instead, or beside it.
    """

    section: Section
    number: int
    command: Entry
    skipped: int = 0
    reply: Entry | None = None
    failure: Entry | None = None

    @property
    def cmd(self) -> str:
        """The name of the command."""
        return str(message_fields(self.command.message).get("cmd", "?"))

    @property
    def node_ids(self) -> list[str]:
        """The nodes that it is about."""
        return node_ids(message_fields(self.command.message))


def read_recording(path: Path) -> Iterator[Section | Entry]:
    """Read the lines of a recording. A last line that was not finished is passed over.

    Raises:
        ProtocolError: ``malformed``: it is not a recording; the message names the line.
        OSError: It cannot be read.
    """
    try:
        file = open_regular(path)
    except ValueError as error:
        raise ProtocolError(ErrorCode.MALFORMED, f"{path} is not a recording: {error}") from None
    with file:
        for number, line in enumerate(_finished_lines(file), 1):
            try:
                item = read_line(line)
            except ProtocolError as error:
                raise ProtocolError(error.code, f"{path}, line {number}: {error}") from None
            if number == 1 and not isinstance(item, Section):
                raise ProtocolError(
                    ErrorCode.MALFORMED,
                    f"{path} is not a recording: its first line has no soma_recording",
                )
            yield item


def _finished_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines that are there now, of a file that may grow.

    A line ends at a zero byte as well: a hole in a file, of which no message is made.
    """
    left = os.fstat(file.fileno()).st_size
    pieces: list[bytes] = []
    while left > 0 and (piece := file.readline(min(_PIECE, left))):
        left -= len(piece)
        pieces.append(piece)
        if piece.endswith(b"\n") or b"\0" in piece:
            yield b"".join(pieces)
            pieces.clear()


def read_calls(path: Path) -> Iterator[RecordedCall]:
    """Read the commands of a recording in order, each with what came of it.

    Raises:
        ProtocolError: ``malformed``: it is not a recording; the message names the line.
        OSError: It cannot be read.
    """
    section: Section | None = None
    number = last = 0
    call: RecordedCall | None = None
    for item in read_recording(path):
        if isinstance(item, Section) or item.direction is Direction.COMMAND:
            if call is not None:
                yield call
            call = None
        if isinstance(item, Section):
            section, number = item, number + 1
        elif section is not None and item.direction is Direction.COMMAND:
            call = RecordedCall(section, number, item, item.n - last - 1)
        elif call is not None and item.command == call.command.n:
            if item.direction is Direction.REPLY:
                call.reply = item
            elif item.direction is Direction.FAILURE:
                call.failure = item
        last = item.n if isinstance(item, Entry) else last
    if call is not None:
        yield call
