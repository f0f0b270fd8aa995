"""The lines of a recording: sections and entries, written and read exactly.

::

    {"soma_recording":2,"time":…,"soma":"…","python":"…","cloudpickle":"…","transport":"stdio","options":{}}
    {"n":1,"direction":"command","time":…,"dialect":"frame","buffers":[],"message":{"cmd":"HELLO",…}}
    {"n":2,"direction":"reply","command":1,"time":…,"dialect":"frame","buffers":["AAAA…"],"message":{…},"map_b64":"…"}

A section begins for each channel. ``n`` grows through the whole file; ``command`` is the ``n`` of
the command that an entry belongs to. A buffer is base64, or ``{"size": …, "sha256": …}`` if it was
left out. Of a line, ``message`` is its JSON, or ``message_b64`` its bytes where these could not be
read back, as with a bare NaN. Of a frame, ``map_b64`` is its map, and ``message`` shows that to a
reader. An entry of direction ``failure`` says what was raised in place of a reply.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NamedTuple, NoReturn

from ormsgpack import packb
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.validation_errors import describe
from soma_core.protocol.dialects import read_fields
from soma_core.wire.json_text import write_json
from soma_core.wire.message import Dialect, Message
from soma_core.wire.readable import readable

FORMAT: Final = 2


class Direction(StrEnum):
    """Who said it."""

    COMMAND = "command"
    REPLY = "reply"
    EVENT = "event"
    FAILURE = "failure"


class LeftOut(BaseModel):
    """Stands for a buffer that was too large to be kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    size: Annotated[int, Field(ge=0)]
    sha256: str

    @classmethod
    def of(cls, buffer: Any) -> LeftOut:
        """What is kept of a buffer that is left out."""
        view = _bytes(buffer)
        return cls(size=view.nbytes, sha256=hashlib.sha256(view).hexdigest())


class Section(BaseModel):
    """The line that comes before the entries of one channel."""

    model_config = ConfigDict(extra="allow", frozen=True, defer_build=True)

    soma_recording: Literal[2] = FORMAT
    time: float
    soma: str
    python: str
    cloudpickle: str
    transport: str
    options: Mapping[str, Any] = Field(default_factory=dict)


class Entry(NamedTuple):
    """One message of a recording.

    Attributes:
        n: Its number in the file.
        direction: Who said it.
        command: The number of the command that it belongs to; its own for a command.
        time: Seconds since 1970.
        message: The message; a buffer of it may be a :class:`LeftOut`.
    """

    n: int
    direction: Direction
    command: int
    time: float
    message: Message


class _EntryLine(BaseModel):
    model_config = ConfigDict(extra="forbid", defer_build=True)

    n: Annotated[int, Field(ge=1)]
    direction: Direction
    command: int | None = None
    time: float = 0.0
    dialect: Dialect = Dialect.FRAME
    buffers: list[str | LeftOut] = []
    message: Any = None
    message_b64: str | None = None
    map_b64: str | None = None


def message_fields(message: Message) -> dict[str, Any]:
    """The fields of a message, none of its data decoded; none if it has no fields."""
    try:
        return read_fields(message)
    except ProtocolError:
        return {}


def node_ids(fields: dict[str, Any]) -> list[str]:
    """The nodes that a command names; whatever else its fields hold."""
    named = [fields.get("node_id"), *_items(fields.get("node_ids"))]
    specs = _items(fields.get("filters"))
    named += [spec.get("id") for spec in specs if isinstance(spec, dict)]
    return [node_id for node_id in named if isinstance(node_id, str)]


def _items(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []


def with_buffers(entry: Entry, buffers: list[Any]) -> Entry:
    """The same entry with other buffers, and a map of its own that shared memory lent."""
    header, _, dialect = entry.message
    return entry._replace(message=Message(bytes(header), buffers, dialect))


def write_section(section: Section) -> bytes:
    """The line of a section."""
    return write_json(section) + b"\n"


def write_entry(entry: Entry) -> bytes:
    """The line of an entry."""
    header, buffers, dialect = entry.message
    fields: dict[str, Any] = {"n": entry.n, "direction": entry.direction}
    if entry.direction is not Direction.COMMAND:
        fields["command"] = entry.command
    fields |= {"time": entry.time, "dialect": dialect.value}
    fields["buffers"] = [
        buffer if isinstance(buffer, LeftOut) else _b64(_bytes(buffer)) for buffer in buffers
    ]
    if dialect is Dialect.FRAME:
        fields["map_b64"] = _b64(header)
        return b"".join((write_json(fields)[:-1], b',"message":', _shown(header), b"}\n"))
    if not _reads_back(header):
        fields["message_b64"] = _b64(header)
        return write_json(fields) + b"\n"
    return b"".join((write_json(fields)[:-1], b',"message":', header, b"}\n"))


def read_line(line: bytes) -> Section | Entry:
    """Read a line that one of the functions above wrote, or that was written by hand.

    Raises:
        ProtocolError: ``malformed``: it is neither a section nor an entry.
    """
    try:
        fields = json.loads(line)
        if isinstance(fields, dict) and "soma_recording" in fields:
            return _section(fields)
        return _entry(_EntryLine.model_validate(fields))
    except ValidationError as error:
        raise _malformed(describe(error)) from None
    except (ValueError, RecursionError) as error:
        raise _malformed(f"invalid JSON: {error}") from None


def _section(fields: dict[str, Any]) -> Section:
    if fields["soma_recording"] != FORMAT:
        raise _malformed(
            f"a recording of format {fields['soma_recording']!r}; this soma reads format {FORMAT}"
        )
    return Section.model_validate(fields)


def _entry(line: _EntryLine) -> Entry:
    header = _header(line)
    buffers = [_from_b64(item) if isinstance(item, str) else item for item in line.buffers]
    command = line.n if line.command is None else line.command
    message = Message(header, buffers, line.dialect)
    return Entry(line.n, line.direction, command, line.time, message)


def _shown(header: Any) -> bytes:
    """A frame's map as JSON for a reader; null where JSON cannot show it."""
    try:
        return to_json(readable(header), inf_nan_mode="strings", bytes_mode="base64")
    except ValueError:  # it nests too deep, or holds what is no text
        return b"null"


def _header(line: _EntryLine) -> bytes:
    """The bytes of a message as they went over the channel."""
    if line.dialect is Dialect.FRAME and line.map_b64 is not None:
        return _from_b64(line.map_b64)
    if ("message" in line.model_fields_set) == (line.message_b64 is not None):
        raise _malformed("exactly one of message and message_b64 is needed, or map_b64 of a frame")
    if line.message_b64 is not None:
        return _from_b64(line.message_b64)
    if line.dialect is Dialect.FRAME:  # written by hand: plain data
        return packb(line.message)
    return write_json(line.message)


def _reads_back(header: bytes) -> bool:
    """Whether a header, put into a line as it is, is read from it as the same bytes."""
    try:
        return write_json(json.loads(header, parse_constant=_refuse_constant)) == header
    except (ValueError, RecursionError):
        return False


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON in other languages")


def _bytes(buffer: Any) -> memoryview:
    view = memoryview(buffer)
    return view.cast("B") if view.nbytes else memoryview(b"")


def _b64(data: Any) -> str:
    return base64.b64encode(data).decode("ascii")


def _from_b64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _malformed(message: str) -> ProtocolError:
    return ProtocolError(ErrorCode.MALFORMED, message)
