"""What a worker printed, cut into lines."""

from __future__ import annotations

import re

_LONGEST_LINE = 8192  # bytes; longer ones are cut into several


class OutputLine(str):
    """A line that a worker printed, without its end.

    Attributes:
        worker: Which one: ``worker 4711``.
        node_id: The node whose command ran, or None.
    """

    __slots__ = ("node_id", "worker")

    worker: str
    node_id: str | None

    def __new__(cls, text: str, worker: str, node_id: str | None = None) -> OutputLine:
        line = super().__new__(cls, text)
        line.worker, line.node_id = worker, node_id
        return line

    def marked(self) -> str:
        """The line, and before it who printed it."""
        node = "" if self.node_id is None else f", {self.node_id}"
        return f"[{self.worker}{node}] {self}"


_UP = b"\x1b[A"  # the cursor goes back to the line above, as under a bar within another one
_DOWN_AGAIN = re.compile(rb"(?:\x1b\[A)+\r*\n+")


class LineCutter:
    """Cuts bytes into lines. Of a line that is overwritten, the last state is kept.

    It is overwritten after a carriage return, or when the cursor goes up from it and comes back.

    Attributes:
        unfinished: A line that has no end yet, or nothing.
    """

    def __init__(self) -> None:
        self.unfinished = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that end in these bytes."""
        data = self.unfinished + data
        if _UP in data:
            data = _DOWN_AGAIN.sub(b"\r", data)
        *whole, rest = data.split(b"\n")
        lines = [piece for line in whole for piece in _pieces(line)]
        if b"\r" in rest:
            ends_with_return = rest.endswith(b"\r")
            rest = _last_state(rest) + (b"\r" if ends_with_return else b"")
        *full, self.unfinished = _cut(rest)
        return lines + [_text(piece) for piece in full]

    def finish(self) -> list[str]:
        """What has no end, as if it had one."""
        lines, self.unfinished = self.peek(), b""
        return lines

    def peek(self) -> list[str]:
        """What :meth:`finish` would return."""
        return _pieces(self.unfinished) if self.unfinished else []


def _pieces(line: bytes) -> list[str]:
    if b"\r" in line:
        line = _last_state(line)
        if not line.strip():
            return []
    while line.endswith(_UP):
        line = line.removesuffix(_UP)
    return [_text(piece) for piece in _cut(line)]


def _last_state(line: bytes) -> bytes:
    written = line.rstrip(b"\r")
    return written[written.rfind(b"\r") + 1 :]


def _cut(line: bytes) -> list[bytes]:
    pieces = []
    while len(line) > _LONGEST_LINE:
        end = _LONGEST_LINE
        while end > _LONGEST_LINE - 4 and line[end] & 0xC0 == 0x80:  # within a character
            end -= 1
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")
