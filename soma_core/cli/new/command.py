"""The command ``soma new``: a distribution with a filter, a transport, a command or hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from soma_core.cli.console import CommandFailed, note
from soma_core.cli.new.names import (
    Names,
    command_names,
    filter_names,
    plugin_names,
    transport_names,
)
from soma_core.cli.new.writing import CHANNEL, COMMAND, FILTER, PLUGIN, TRANSPORT, write
from soma_core.plugins.catalog import PLUGINS, Catalog, installed_filters, installed_transports

Into = Annotated[
    Path,
    typer.Option(
        "--into",
        exists=True,
        file_okay=False,
        help="Where the new folder is made.",
    ),
]

app = typer.Typer(
    help="Write a new distribution with a filter, a transport, a command or hooks.",
    epilog="Example: soma new filter acme.Center",
    no_args_is_help=True,
)


@app.command("filter", epilog="Example: soma new filter acme.Center")
def new_filter(
    name: Annotated[str, typer.Argument(help="The name by which it is loaded: 'acme.Center'.")],
    into: Into = Path(),
) -> None:
    """Write an installable, typed and tested distribution with a filter."""
    _write(installed_filters(), FILTER, filter_names(name), into)


@app.command("transport", epilog="Example: soma new transport pigeon --into ..")
def new_transport(
    name: Annotated[str, typer.Argument(help="The name for soma.connect: 'pigeon'.")],
    into: Into = Path(),
    channel: Annotated[
        bool,
        typer.Option(
            "--channel",
            help="With a channel of its own: for what moves whole messages, not a stream of bytes.",
        ),
    ] = False,
) -> None:
    """Write an installable, typed and tested distribution with a transport."""
    templates = CHANNEL if channel else TRANSPORT
    _write(installed_transports(), templates, transport_names(name), into)


@app.command("command", epilog="Example: soma new command acme.Evaluate")
def new_command(
    name: Annotated[str, typer.Argument(help="Whose it is, and its name: 'acme.Evaluate'.")],
    into: Into = Path(),
) -> None:
    """Write an installable, typed and tested distribution with a command for workers."""
    _write(Catalog(PLUGINS, "plugin"), COMMAND, command_names(name), into)


@app.command("plugin", epilog="Example: soma new plugin acme-audit")
def new_plugin(
    name: Annotated[str, typer.Argument(help="Its name: 'acme-audit'.")],
    into: Into = Path(),
) -> None:
    """Write an installable, typed and tested distribution with hooks."""
    _write(Catalog(PLUGINS, "plugin"), PLUGIN, plugin_names(name), into)


def _write(catalog: Catalog, templates: tuple[str, ...], names: Names, into: Path) -> None:
    for info in catalog.list():
        if info.name == names.name and info.distribution != names.distribution:
            raise CommandFailed(
                f"{info.distribution} provides a {catalog.kind} {names.name!r} already, and two "
                "of one name conflict: choose another, or uninstall that one"
            )
    folder = write(templates, names, into)
    note(f"wrote {folder}; next:")
    typer.echo(f"cd {folder}\npip install --editable '.[test]'\npytest\nsoma {catalog.kind}s")
