"""What installed distributions add: found, loaded one by one, and called."""

from soma_core.plugins.manager import installed_plugins

__all__ = ["installed_plugins"]
