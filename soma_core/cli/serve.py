"""Serve: the daemon of a transport, found by the transport's name."""

from __future__ import annotations

from typing import Annotated

import typer

from soma_core.cli.daemons import offered

__all__ = ["serve"]


def serve(
    transport: Annotated[str, typer.Argument(help="Its name; 'soma transports' lists them.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="Arguments of its daemon: see 'soma serve socket --help'."),
    ] = None,
) -> None:
    """Run the daemon of a transport, which serves workers to hosts."""
    daemon = offered(transport, "serve", "daemon")
    raise typer.Exit(daemon(list(arguments or ())) or 0)
