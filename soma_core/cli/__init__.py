"""cli: the ``soma`` command."""

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process, and exit with its status."""
    from soma_core.cli.app import app

    app()
