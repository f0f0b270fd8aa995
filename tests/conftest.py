"""Fixtures that several suites share."""

from __future__ import annotations

import signal
from importlib.util import find_spec
from pathlib import Path

import cloudpickle
import pytest

from soma_core import conversation

from .support import SocketDaemon, filters, short_directory, socket_daemon


def pytest_configure() -> None:
    """Whoever runs the tests in the background has them start with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-faults",
        action="store_true",
        help="inject every fault at every moment over every transport, not a sample",
    )


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
def long_grace(monkeypatch):
    """So that a slow machine does not take an interrupted worker away from under a test."""
    monkeypatch.setattr(conversation, "_GRACE", 30.0)


@pytest.fixture(scope="session")
def shared_socket_daemon() -> SocketDaemon:
    """One socket daemon for all tests that leave it as it was.

    It forks its workers from a template, which is several times faster. Those that are started
    afresh have tests of their own (``tests/transports/test_socket_daemon.py``).
    """
    preload = "--preload=" + ("torch" if find_spec("torch") else "numpy")
    with short_directory() as directory, socket_daemon(directory / "soma.sock", preload) as daemon:
        yield daemon
