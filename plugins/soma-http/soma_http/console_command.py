"""``soma console``, which imports the server when it is used."""

from __future__ import annotations


def console(arguments: list[str]) -> int:
    """Open a page for the workers of any transport, on this machine alone."""
    from soma_http.server.local import run

    return run(arguments)
