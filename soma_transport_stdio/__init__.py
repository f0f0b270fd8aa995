"""The stdio transport: a child process that speaks the protocol on its stdin and stdout."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soma_transport_stdio.client import StdioOptions, StdioTransport

__all__ = ["StdioOptions", "StdioTransport"]


def __getattr__(name: str) -> Any:
    # Lazy, so that the daemon can clean up its process before it imports anything.
    if name in __all__:
        from soma_transport_stdio import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
