"""The stdio transport: a child process that speaks the protocol on its stdin and stdout."""

# Nothing is imported here, so that the daemon can clean up its process before anything is.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from soma_transport_stdio.client import StdioOptions, StdioTransport

__all__ = ["StdioOptions", "StdioTransport"]


def __getattr__(name: str) -> "Any":
    if name in __all__:
        from soma_transport_stdio import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
