"""The socket transport: a daemon on a Unix socket, with a worker process for each connection."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soma_transport_socket.client import SocketOptions, SocketTransport

__all__ = ["SocketOptions", "SocketTransport"]


def __getattr__(name: str) -> Any:
    # Lazy, so that the daemon's processes can clean up before they import anything.
    if name in __all__:
        from soma_transport_socket import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
