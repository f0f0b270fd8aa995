"""Options of the transport, and servers that do not answer as one."""

from __future__ import annotations

import socket
import threading

import pytest
from soma_http import HttpOptions

import soma_core as soma


@pytest.mark.parametrize(
    "url", ["host:8000", "ftp://host", "http://", "http://me:secret@host", "http://host?x=1"]
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="url"):
        soma.connect("http", url=url)


def test_pickles_need_a_server_that_is_trusted():
    assert HttpOptions(pickle="same-user").pickle == "never"
    assert HttpOptions(pickle="same-user", trust_server=True).pickle == "same-user"
    assert HttpOptions(pickle="never", trust_server=True).pickle == "never"


def test_a_token_is_in_no_repr():
    assert "secret-of-mine" not in repr(HttpOptions(token="secret-of-mine"))


def test_where_nobody_listens_the_error_names_the_command_that_starts_a_server():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(soma.StartFailed, match="soma serve http"):
            soma.connect("http", url=url)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "valid HTTP response"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404, Not Found"),
        (b'HTTP/1.1 503 No\r\nContent-Length: 15\r\n\r\n{"error":"full"', "503"),
        (b"", "valid HTTP response"),
    ],
)
def test_what_is_no_soma_server_is_named(answer, said):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(soma.StartFailed, match=said):
            soma.connect("http", url=url, start_timeout=10.0)
        thread.join()
