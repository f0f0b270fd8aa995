"""Mutated messages: exactly one reply each, in the dialect of the message, and the stream goes on.

A bounded sample; ``python -m benchmarks.faults --only mutants`` sends a million.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from soma_core.testing import FuzzRun, Mutator
from soma_core.transport import Dialect

Connect = Callable[[], socket.socket]


@pytest.fixture(params=["stdio", "socket"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Opens connections to engines, as a host in another language would."""
    children: list[subprocess.Popen[bytes]] = []

    def stdio() -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "soma_transport_stdio"]
            children.append(subprocess.Popen(command, stdin=theirs, stdout=theirs))
        return ours

    def unix() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(request.getfixturevalue("shared_socket_daemon").path))
        return connection

    yield stdio if request.param == "stdio" else unix
    assert [child.wait(20.0) for child in children] == [0] * len(children)


@pytest.mark.parametrize("dialect", list(Dialect))
def test_every_mutated_message_gets_one_reply_and_the_next_message_works(
    connect: Connect, dialect: Dialect
) -> None:
    fuzz_run = FuzzRun(connect)
    fuzz_run.send(Mutator(20_26).mutants(dialect, 1500))
    fuzz_run.close()
    assert fuzz_run.failures == []
    assert fuzz_run.sent == 1500


@pytest.mark.nightly
@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_message_that_ends_the_stream_gets_one_reply_and_the_next_connection_works(
    connect: Connect, dialect: Dialect
) -> None:
    mutator, fuzz_run = Mutator(20_27), FuzzRun(connect)
    for _ in range(4):
        fuzz_run.send_closing(mutator.closing(dialect))
    fuzz_run.send(mutator.mutants(dialect, 1))
    fuzz_run.close()
    assert fuzz_run.failures == []
    assert fuzz_run.sent == 5
