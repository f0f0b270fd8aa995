"""Schema: the JSON Schema of the protocol, printed or written as files."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from soma_core.cli.console import CommandFailed, note, print_json


class Part(StrEnum):
    """What a schema describes."""

    COMMANDS = "commands"
    REPLIES = "replies"
    VALUES = "values"


FILES = {
    Part.COMMANDS: "command.schema.json",
    Part.REPLIES: "reply.schema.json",
    Part.VALUES: "value.schema.json",
}
"""What the file of each schema is called."""


def schema(
    part: Annotated[Part | None, typer.Argument(help="Only this part.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the schemas as files into this directory.")
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(help="Write example messages as files into this directory."),
    ] = None,
) -> None:
    """Print the JSON Schema (2020-12) of commands, replies and values."""
    parts = list(Part) if part is None else [part]
    if out is not None or vectors is not None:
        written = [] if out is None else write_schemas(out, parts)
        written += [] if vectors is None else _write_vectors(vectors)
        for path in written:
            note(f"wrote {path}")
        return
    documents = {name.value: _document(name) for name in parts}
    print_json(documents if part is None else documents[part])


def _document(part: Part) -> dict[str, Any]:
    """The schema of one part, with the commands that installed plugins add."""
    from soma_core.plugins.manager import installed_plugins
    from soma_core.protocol.json_schema import SCHEMAS, command_schema

    return (
        command_schema(installed_plugins().known_commands())
        if part is Part.COMMANDS
        else SCHEMAS[part]()
    )


def _write_vectors(directory: Path) -> list[Path]:
    from soma_core.replay.vectors import write_vectors

    try:
        return write_vectors(directory)
    except OSError as error:
        raise CommandFailed(f"cannot write the vectors: {error}") from None


def write_schemas(directory: Path, parts: list[Part] | None = None) -> list[Path]:
    """Write the schemas as files, and return their paths.

    Raises:
        CommandFailed: The directory cannot be made or written to.
    """
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for part in parts or list(Part):
            path = directory / FILES[part]
            path.write_text(json.dumps(_document(part), indent=2) + "\n", encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise CommandFailed(f"cannot write the schemas: {error}") from None
    return written
