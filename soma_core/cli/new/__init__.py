"""new: ``soma new``, an installable distribution to start a plugin from."""

from soma_core.cli.new.command import app

__all__ = ["app"]
