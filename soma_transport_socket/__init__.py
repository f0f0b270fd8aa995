"""The socket transport: a daemon on a Unix socket, with a worker process for each connection."""

# Nothing is imported here, so that the daemon can clean up its process before anything is.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from soma_transport_socket.client import SocketOptions, SocketTransport

__all__ = ["SocketOptions", "SocketTransport"]


def __getattr__(name: str) -> "Any":
    if name in __all__:
        from soma_transport_socket import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
