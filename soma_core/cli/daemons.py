"""Daemons: what a transport offers to whoever runs or asks its daemon, found by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from soma_core.cli.console import CommandFailed
from soma_core.plugins.catalog import installed_transports

__all__ = ["AtPath", "Over", "offered"]

AtPath = Annotated[
    Path | None,
    typer.Option("--path", help="Its socket; your own daemon's by default."),
]
Over = Annotated[str, typer.Option("--transport", help="The transport that has the daemon.")]


def offered(transport: str, method: str, what: str) -> Any:
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
