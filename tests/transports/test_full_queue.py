"""A daemon whose queue of connections is full is held up, which is not the same as gone."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from soma_core.errors import StartFailed
from soma_transport_socket import address
from soma_transport_socket.ask import ask_once
from soma_transport_socket.messages import Request

from ..support import short_directory


@pytest.fixture
def full() -> Iterator[tuple[Path, socket.socket]]:
    """A path where somebody listens, and whose queue has no room."""
    waiting: list[socket.socket] = []
    with short_directory() as directory, socket.socket(socket.AF_UNIX) as listening:
        path = directory / "soma.sock"
        listening.bind(str(path))
        listening.listen(0)
        while not waiting or waiting[-1].connect_ex(str(path)) == 0:
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
        yield path, listening
        for connection in waiting:
            connection.close()


def test_a_question_to_a_daemon_with_a_full_queue_times_out(full):
    path, _ = full
    with pytest.raises(TimeoutError):
        ask_once(path, Request(op="status", worker="any"), 0.1)


def test_a_client_waits_until_there_is_room_in_the_queue(full):
    path, listening = full
    threading.Timer(0.2, lambda: listening.accept()[0].close()).start()
    address.connect(path, 20.0).close()


def test_a_second_daemon_is_refused_while_the_first_has_a_full_queue(full):
    path, _ = full
    with pytest.raises(StartFailed, match="is held up"):
        address.bind(path)
