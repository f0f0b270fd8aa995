"""The connection to a server as a stream of bytes: plain, or by TLS."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from pathlib import Path
from time import monotonic
from urllib.parse import SplitResult

from soma_core.streams import ByteStream, SocketStream
from soma_core.transport import close_in_forked_child


class TlsStream(ByteStream):
    """A socket with TLS over it, which it owns."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._socket = connection
        close_in_forked_child(connection)

    def read_into(self, view: memoryview, deadline: float | None) -> int:
        self._socket.settimeout(_left(deadline))
        return self._socket.recv_into(view)

    def write(self, data: bytes | memoryview, deadline: float | None) -> int:
        self._socket.settimeout(_left(deadline))
        return self._socket.send(data)

    def close(self) -> None:
        with suppress(OSError):  # the other end was faster
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        self._socket.close()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(1e-6, deadline - monotonic())


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """What checks the certificate of a server.

    Raises:
        OSError: The file cannot be read, or holds no certificates.
    """
    return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))


def open_stream(url: SplitResult, ca_file: Path | None, timeout: float | None) -> ByteStream:
    """Connect to the server of a URL.

    Raises:
        OSError: It cannot be reached in time, or its certificate is not good.
    """
    secure = url.scheme == "https"
    host = url.hostname or ""
    connection = socket.create_connection((host, url.port or (443 if secure else 80)), timeout)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if not secure:
            return SocketStream(connection)
        return TlsStream(tls_context(ca_file).wrap_socket(connection, server_hostname=host))
    except BaseException:
        connection.close()
        raise
