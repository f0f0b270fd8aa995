"""Serve: the daemon of a transport, found by the transport's name."""

from __future__ import annotations

from typing import Annotated

import typer

from soma_core.cli.console import CommandFailed
from soma_core.plugins.catalog import installed_transports

__all__ = ["serve"]


def serve(
    transport: Annotated[str, typer.Argument(help="Its name; 'soma transports' lists them.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="Arguments of its daemon: see 'soma serve socket --help'."),
    ] = None,
) -> None:
    """Run the daemon of a transport, which serves workers to hosts."""
    transport_class = installed_transports().load(transport)
    daemon = getattr(transport_class, "serve", None)
    if not callable(daemon):
        raise CommandFailed(
            f"the transport {transport!r} has no daemon: {transport_class.__name__} defines no "
            "serve(arguments)"
        )
    raise typer.Exit(daemon(list(arguments or ())) or 0)
