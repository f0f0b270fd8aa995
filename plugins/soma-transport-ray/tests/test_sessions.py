"""A session is one engine for several clients, who do not get into each other's way."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import soma_core as soma
from soma_core import progress
from soma_core.errors import ErrorCode
from soma_core.testing import Actions, Echo

from .conftest import FAR


class Slow(Actions):
    """Says that it has begun to learn, and then sleeps for as many seconds as it is told."""

    def fit(self, x, y=None):
        progress.report(begun=True)
        return self._sleep(x)


@pytest.fixture
def clients(start):
    """Two clients of one session on the other node, which ends with the test."""
    options = {"session": "shared", "resources": FAR}
    first = start({"echo": Echo(), "slow": Slow()}, **options)
    yield first, start(**options)
    first.shutdown()


@pytest.fixture
def busy(clients):
    """What the first client's command comes to, which takes a while and runs."""
    begun = threading.Event()
    with ThreadPoolExecutor() as threads:
        result = threads.submit(clients[0].fit, "slow", 3.0, progress=lambda _: begun.set())
        assert begun.wait(20.0)
        yield result


def test_a_deadline_of_one_client_spares_the_command_of_another(clients, busy):
    with pytest.raises(soma.DeadlineExceeded):
        clients[1].forward("echo", 1, timeout=0.3)
    assert busy.result() == "slept"


def test_a_command_that_waits_is_given_up_without_being_executed(clients, busy):
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(clients[1].fit, "echo", "never")
        while not waiting.done():
            clients[1].interrupt()
        with pytest.raises(soma.RemoteError, match="before it was executed") as caught:
            waiting.result()
    assert caught.value.code is ErrorCode.INTERRUPTED
    assert busy.result() == "slept"
    assert clients[0].get_state("echo").fit_state == {}
