"""The page for implementers: soma reads and writes its examples, and its tables are complete."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from soma_core.engine.failures import describe_failure
from soma_core.errors import ErrorCode
from soma_core.protocol.json_schema import SCHEMAS
from soma_core.protocol.parsing import CommandParser
from soma_core.protocol.versions import PROTOCOL_VERSION
from soma_core.serve import Interrupts, Responder
from soma_core.streams import StreamLimits
from soma_core.transport import Dialect, Message
from soma_core.wire.extensions import DEEPEST_EXTENSION, Extension
from soma_core.wire.frames import EntryKind, TableEntry, write_frame
from soma_core.wire.line_codec import MAX_NESTING, LineEncoder
from soma_core.wire.packing import pack
from soma_core.wire.parser import MessageParser
from soma_core.wire.pickles import Pickles
from soma_core.wire.stdlib_types import BY_NAME
from soma_core.wire.unpacking import unpack

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "implementing.md").read_text()
BLOCKS = re.findall(r"^```(hex|json)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TYPED = Pickles(allowed=False)
FRAMES = [bytes.fromhex(re.sub("#.*", "", body)) for kind, body in BLOCKS if kind == "hex"]
LINES = [
    json.loads(following)
    for (kind, _), (other, following) in pairwise(BLOCKS)
    if (kind, other) == ("hex", "json")
]


def read(frame: bytes) -> Message:
    message = MessageParser(StreamLimits()).feed(memoryview(frame))
    assert message is not None
    return message


def written(fields: dict[str, Any]) -> bytes:
    header, buffers = pack(fields, TYPED)
    parts = [bytes(memoryview(buffer).cast("B")) for buffer in buffers]
    entries = [TableEntry(EntryKind.INLINE, 0, 0, len(part)) for part in parts]
    return write_frame(header, entries, parts)


@pytest.mark.parametrize("frame", FRAMES, ids=range(len(FRAMES)))
def test_a_frame_of_the_page_is_read_and_is_what_soma_writes(frame: bytes) -> None:
    message = read(frame)
    fields = unpack(message.header, message.buffers, TYPED)
    assert written(fields) == frame


def test_a_frame_says_what_the_line_below_it_says() -> None:
    for frame, line in zip(FRAMES[:3], LINES[:3], strict=True):
        message = read(frame)
        fields = unpack(message.header, message.buffers, TYPED)
        assert json.loads(json.dumps(LineEncoder(pickles=TYPED).encode(fields))) == line


def test_the_frame_of_many_types_holds_them() -> None:
    message = read(FRAMES[-1])
    assert unpack(message.header, [], TYPED)["data"] == (1, 2**70, {1: "x"})


def test_the_commands_of_the_page_are_valid() -> None:
    parser = CommandParser()
    commands = [line for _, body in BLOCKS for line in body.splitlines() if '{"cmd"' in line]
    assert len(commands) >= 7
    for command in commands:
        parser.check(command.encode())


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    """As in a worker; the handler of SIGINT that they install does not stay."""
    before = signal.getsignal(signal.SIGINT)
    yield Interrupts(by_wire=True)
    signal.signal(signal.SIGINT, before)


def test_the_hello_of_the_page_is_accepted_where_pickles_are(interrupts: Interrupts) -> None:
    responder = Responder(interrupts=interrupts)
    hellos = [body for _, body in BLOCKS if "HELLO" in body]
    assert len(hellos) == 2
    for hello in hellos:
        message = Message(hello.encode(), (), Dialect.LINE)
        reply = json.loads(responder.respond(message, lambda event: None).header)
        assert reply["ok"], reply
        assert reply["pickle"] == "same-user"
        assert {"lines", "frames", "events", "encoding", "interrupts"} <= set(reply["features"])


def test_the_tables_have_each_extension_type_and_tag() -> None:
    for extension in Extension:
        assert f"| {int(extension)} | {extension.name} |" in PAGE
    for name in BY_NAME:
        assert f"`{name}`" in PAGE
    assert f"at most {DEEPEST_EXTENSION} deep" in PAGE
    tags = SCHEMAS["values"]()["$defs"]["SpecialValue"]["oneOf"]
    names = {tag["properties"]["$soma"]["const"] for tag in tags if "$soma" in tag["properties"]}
    assert len(names) >= 6
    assert [name for name in names if f'"$soma": "{name}"' not in PAGE] == []
    for model in ("Tensor", "Bytes", "Text", "Json", "Empty", "Object"):
        assert f'"type": "{model}"' in PAGE


def test_the_limits_are_those_of_the_code() -> None:
    limits = StreamLimits()
    for bytes_ in (limits.line, limits.header, limits.body):
        assert f"| {bytes_:,} bytes |" in PAGE
    assert f"| {MAX_NESTING} |" in PAGE
    longest = describe_failure(ValueError("x" * 1_000_000))["error"]
    assert 65_536 <= len(longest) < 66_000
    assert f"The protocol has the number {PROTOCOL_VERSION}, frames the layout 2" in PAGE


def test_the_codes_that_the_page_names_are_codes() -> None:
    named = re.findall(r"(?:code|with the code) `(\w+)`", PAGE)
    assert set(named) <= {code.value for code in ErrorCode}
    assert {"incompatible", "malformed", "interrupted", "pickle_refused"} <= set(named)
