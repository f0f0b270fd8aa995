"""Daemons: what a transport offers to whoever runs or asks its daemon, found by its name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from soma_core.channel.contract import DaemonInfo, SessionInfo, WorkerInfo
from soma_core.cli.console import AsJson, CommandFailed, note, print_json, print_table, table
from soma_core.models.brief import size
from soma_core.plugins.catalog import installed_transports

AtPath = Annotated[
    Path | None,
    typer.Option("--path", help="Its socket; your own daemon's by default."),
]
Over = Annotated[str, typer.Option("--transport", help="The transport that has the daemon.")]


def serve(
    transport: Annotated[str, typer.Argument(help="Its name; 'soma transports' lists them.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="Arguments of its daemon, as in 'soma serve socket --help'."),
    ] = None,
) -> None:
    """Run the daemon of a transport, which serves workers to hosts."""
    daemon = _offered(transport, "serve", "daemon")
    raise typer.Exit(daemon(list(arguments or ())) or 0)


def status(path: AtPath = None, transport: Over = "socket", as_json: AsJson = False) -> None:
    """Show a daemon and your workers there: sessions, and those of single clients."""
    found = _ask(transport, path)
    if as_json:
        workers = [worker._asdict() for worker in found.workers]
        print_json({**found._asdict(), "workers": workers})
        return
    note(
        f"process {found.pid}, soma {found.soma}, up {_duration(found.seconds)}, "
        f"{size(found.memory)}"
    )
    if not found.workers:
        note("there are no workers")
        return
    rows = table("pid", "session", "clients", "up", "memory", "runs")
    for worker in found.workers:
        rows.add_row(
            str(worker.pid),
            Text(worker.session or "-"),
            str(worker.clients),
            _duration(worker.seconds),
            size(worker.memory),
            Text(_work_of(worker)),
        )
    print_table(rows)


def ping(path: AtPath = None, transport: Over = "socket") -> None:
    """Ask a daemon whether it is there: status 0 if it answers, 1 if not."""
    begun = time.perf_counter()
    found = _ask(transport, path)
    took = (time.perf_counter() - begun) * 1000
    note(f"process {found.pid} answered in {took:.1f} ms; workers: {len(found.workers)}")


def _ask(transport: str, path: Path | None) -> DaemonInfo:
    asked: DaemonInfo = _offered(transport, "status", "daemon that can be asked")(path)
    return asked


def _work_of(worker: WorkerInfo) -> str:
    if worker.command is None:
        return "nothing" if worker.session else "its client knows"
    return worker.command if worker.node_id is None else f"{worker.command} of {worker.node_id}"


sessions_app = typer.Typer(help="List the sessions of a daemon, and end them.")


@sessions_app.callback(invoke_without_command=True, epilog="Example: soma sessions --json")
def _sessions(
    context: typer.Context,
    path: AtPath = None,
    transport: Over = "socket",
    as_json: AsJson = False,
) -> None:
    """List the sessions of a daemon, and end them."""
    context.obj = path
    if context.invoked_subcommand is None:
        _list(path, transport, as_json)


@sessions_app.command("list", epilog="Example: soma sessions list")
def _list_them(
    context: typer.Context,
    path: AtPath = None,
    transport: Over = "socket",
    as_json: AsJson = False,
) -> None:
    """List the sessions: process, clients, memory, and the command that runs."""
    _list(path or context.obj, transport, as_json)


def _list(path: Path | None, transport: str, as_json: bool) -> None:
    found: list[SessionInfo] = _offered(transport, "sessions", "sessions")(path)
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
            size(session.memory),
            Text(_command_of(session)),
        )
    print_table(rows)


def _command_of(session: SessionInfo) -> str:
    if session.command is None:
        return "nothing"
    node = "" if session.node_id is None else f" of {session.node_id}"
    return f"{session.command}{node} for {session.seconds:.1f} s"


@sessions_app.command("stop", epilog="Example: soma sessions stop training")
def _stop(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The name of the session.")],
    path: AtPath = None,
    transport: Over = "socket",
) -> None:
    """End a session for all its clients; its running command is interrupted."""
    _offered(transport, "stop_session", "sessions")(name, path or context.obj)
    note(f"the session {name} has ended")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h"


def _offered(transport: str, method: str, what: str) -> Any:
    """A method that the class of a transport may have; ``what`` is for the error of one without it.

    Raises:
        PluginError: There is no such transport.
        CommandFailed: It has no such method.
    """
    transport_class = installed_transports().load(transport)
    found = getattr(transport_class, method, None)
    if not callable(found):
        raise CommandFailed(
            f"the transport {transport!r} has no {what}: {transport_class.__name__} defines no "
            f"{method}"
        )
    return found
