"""The golden vectors say what soma says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from soma_core.engine.inline import InlineOptions, InlineTransport
from soma_core.protocol.commands import COMMANDS
from soma_core.protocol.json_schema import SCHEMAS
from soma_core.replay.reading import read_calls
from soma_core.replay.replaying import Verdict, replay
from soma_core.replay.vectors import write_vectors
from soma_core.transport import Dialect
from soma_core.wire.line_codec import LineEncoder
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import unpack
from soma_transport_stdio.client import StdioOptions, StdioTransport

VECTORS = Path(__file__).resolve().parents[2] / "schemas" / "vectors"
FILES = [VECTORS / f"{dialect.value}.jsonl" for dialect in Dialect]


def inline(section):
    return InlineTransport(InlineOptions(pickle=section.options["pickle"]))


def stdio(section):
    return StdioTransport(StdioOptions(pickle=section.options["pickle"]))


def _installed(outcome):
    """Whether all that differs is which filters are registered here."""
    return outcome.cmd == "LIST" and outcome.detail.startswith("length of filters: 0, now ")


def test_the_vectors_in_the_repository_are_those_that_make_schemas_writes(tmp_path):
    for written, kept in zip(write_vectors(tmp_path), FILES, strict=True):
        assert written.read_bytes() == kept.read_bytes(), "run: make schemas"


@pytest.mark.parametrize("transport", [inline, stdio])
@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_the_vectors_give_the_same_replies_over_any_transport(file, transport):
    outcomes = list(replay(file, transport))
    others = [o for o in outcomes if o.verdict is not Verdict.SAME]
    assert [(o.cmd, o.detail) for o in others if not _installed(o)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_command_is_in_the_vectors(file):
    names = {model.model_fields["cmd"].annotation.__args__[0] for model in COMMANDS}
    assert names <= {call.cmd for call in read_calls(file)}


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_the_vectors_are_in_the_dialect_of_their_name(file):
    for call in read_calls(file):
        assert call.command.message.dialect.value == file.stem
        assert call.reply.message.dialect.value == file.stem


def as_json(message):
    """The fields of a message as JSON, buffers of a frame as the tags of a line."""
    if message.dialect is Dialect.LINE:
        return json.loads(message.header)
    fields = unpack(message.header, [bytearray(part) for part in message.buffers], Pickles())
    return json.loads(json.dumps(LineEncoder().encode(fields)))


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_the_vectors_keep_to_the_schemas(file):
    commands, replies = (Draft202012Validator(SCHEMAS[part]()) for part in ("commands", "replies"))
    for call in read_calls(file):
        reply = as_json(call.reply.message)
        replies.validate(reply)
        if reply.get("code") not in ("unknown_command", "invalid_command"):
            commands.validate(as_json(call.command.message))
