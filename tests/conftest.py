"""Fixtures that several suites share."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import settings

import soma_core as soma
from soma_transport_socket import SocketTransport
from soma_transport_stdio import StdioTransport

from .support import SocketDaemon, filters, short_directory, socket_daemon

settings.register_profile("soma", deadline=None, database=None, derandomize=True, max_examples=60)
settings.register_profile("gate", settings.get_profile("soma"), max_examples=20)
settings.register_profile("hunt", deadline=None, database=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "soma"))


def pytest_configure() -> None:
    """Whoever runs the tests in the background has them start with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What is here to stay need not be gone through when garbage is collected.

    Many tests collect, to see what is released: among all tests and torch that takes long.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _filters_travel_by_value():
    cloudpickle.register_pickle_by_value(filters)
    yield
    cloudpickle.unregister_pickle_by_value(filters)


@pytest.fixture
def note(tmp_path) -> Path:
    """The file by which a call of ``filters.Sleep`` says that it runs, and is told to end."""
    return tmp_path / "note"


@pytest.fixture
def long_grace() -> float:
    """So that a slow machine does not take an interrupted worker away from under a test."""
    return 30.0


@pytest.fixture
def told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a death is told with its status or signal though a slow machine says it late."""
    for transport in (StdioTransport, SocketTransport):
        monkeypatch.setattr(transport, "status_delay", 30.0)


@pytest.fixture(scope="session")
def shared_socket_daemon() -> SocketDaemon:
    """One socket daemon for all tests that leave it as it was.

    It forks its workers, which takes a tenth of a start. Those that are started afresh have tests
    of their own (``tests/transports/test_socket_daemon.py``).
    """
    with _daemon_with("numpy,cloudpickle") as daemon:
        yield daemon


@pytest.fixture(scope="session")
def with_torch() -> dict[str, Any]:
    """The options of a socket daemon whose workers have imported torch.

    And what torch imports for its first optimizer. Such a worker takes three times as long to
    fork as one without, and a tenth of what torch takes to import.
    """
    pytest.importorskip("torch")
    with _daemon_with("torch,torch._dynamo,cloudpickle") as daemon:
        yield {"path": daemon.path}


@contextmanager
def _daemon_with(modules: str) -> Iterator[SocketDaemon]:
    preload = f"--preload={modules}"
    with short_directory() as directory, socket_daemon(directory / "soma.sock", preload) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def options(request: pytest.FixtureRequest) -> Callable[[str], dict[str, Any]]:
    """The options that each transport needs here."""

    def of(transport: str) -> dict[str, Any]:
        if transport == "socket":
            return {"path": request.getfixturevalue("shared_socket_daemon").path}
        return {}

    return of


@pytest.fixture
def connect(options, request) -> Iterator[Callable[..., soma.Worker]]:
    """Like ``soma.connect``; the workers are closed at the end of the test.

    Those over a socket belong to the shared daemon, if the test names no other. With the fixture
    ``long_grace`` or ``short_grace``, interrupted calls have that long to end.
    """
    named = [name for name in ("long_grace", "short_grace") if name in request.fixturenames]
    grace = {"interrupt_grace": request.getfixturevalue(named[0])} if named else {}
    with ExitStack() as workers:

        def start(transport: str, **arguments: Any) -> soma.Worker:
            needed = {} if "path" in arguments else options(transport)
            return workers.enter_context(soma.connect(transport, **needed, **grace, **arguments))

        yield start
