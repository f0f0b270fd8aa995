"""Sessions: the workers that clients share by name, listed and ended."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.text import Text

from soma_core.channel.contract import SessionInfo
from soma_core.cli.console import AsJson, note, print_json, print_table, table
from soma_core.cli.daemons import AtPath, Over, offered

__all__ = ["app"]

app = typer.Typer(help="List the sessions of a daemon, and end them.")


@app.callback(invoke_without_command=True, epilog="Example: soma sessions --json")
def sessions(
    context: typer.Context,
    path: AtPath = None,
    transport: Over = "socket",
    as_json: AsJson = False,
) -> None:
    """List the sessions of a daemon, and end them."""
    context.obj = path
    if context.invoked_subcommand is None:
        _list(path, transport, as_json)


@app.command("list", epilog="Example: soma sessions list")
def list_them(
    context: typer.Context,
    path: AtPath = None,
    transport: Over = "socket",
    as_json: AsJson = False,
) -> None:
    """List the sessions: process, clients, memory, and the command that runs."""
    _list(path or context.obj, transport, as_json)


def _list(path: Path | None, transport: str, as_json: bool) -> None:
    found: list[SessionInfo] = offered(transport, "sessions", "sessions")(path)
    if as_json:
        print_json([session._asdict() for session in found])
        return
    if not found:
        note("there are no sessions")
        return
    rows = table("session", "pid", "clients", "memory", "runs")
    for session in found:
        rows.add_row(
            Text(session.name),
            str(session.pid),
            str(session.clients),
            decimal(session.memory),
            Text(_activity(session)),
        )
    print_table(rows)


def _activity(session: SessionInfo) -> str:
    if session.command is None:
        return "nothing"
    node = "" if session.node_id is None else f" of {session.node_id}"
    return f"{session.command}{node} for {session.seconds:.1f} s"


@app.command("stop", epilog="Example: soma sessions stop training")
def stop(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The name of the session.")],
    path: AtPath = None,
    transport: Over = "socket",
) -> None:
    """End a session for all its clients; its running command is interrupted."""
    offered(transport, "stop_session", "sessions")(name, path or context.obj)
    note(f"the session {name} has ended")
