"""cli: the ``soma`` command."""

import io
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process, and exit with its status."""
    from soma_core.cli.app import app

    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and out.errors == "strict":
        out.reconfigure(errors="replace")  # a terminal that lacks a character is no reason to fail
    app()
