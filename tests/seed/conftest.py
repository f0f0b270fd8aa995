"""The daemons that the transcripts are run against: the original, and ours over both transports."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .host import Host

ROOT = Path(__file__).resolve().parents[2]
SEED_DAEMON = Path(
    os.environ.get("SOMA_SEED_DAEMON", ROOT.parent / "shared" / "seed" / "daemon.py")
)


@pytest.fixture(scope="session")
def seed_script() -> str:
    """The original daemon, as its host gives it to ``python -c``."""
    if not SEED_DAEMON.exists():
        pytest.skip(f"the original daemon is not at {SEED_DAEMON}; set SOMA_SEED_DAEMON")
    return SEED_DAEMON.read_text()


@pytest.fixture(scope="session")
def start_host(request) -> Callable[..., Host]:
    """Starts a host of a daemon by name: ``seed``, ``stdio`` or ``socket``."""

    def start(daemon: str, **options) -> Host:
        if daemon == "socket":
            return Host.connect(request.getfixturevalue("shared_socket_daemon").path)
        if daemon == "seed":
            command = [sys.executable, "-c", request.getfixturevalue("seed_script")]
            return Host.start(command, env=_without_coverage(), **options)
        return Host.start([sys.executable, "-m", "soma_transport_stdio"], **options)

    return start


def _without_coverage() -> dict[str, str]:
    """Measuring coverage imports modules early, which hides what the original gets wrong."""
    return {name: value for name, value in os.environ.items() if "COVERAGE" not in name}


@pytest.fixture
def hosts(start_host):
    """Like ``start_host``, and closes the hosts at the end of the test."""
    started = []

    def start(daemon: str, **options) -> Host:
        started.append(start_host(daemon, **options))
        return started[-1]

    yield start
    for host in started:
        host.close()


@pytest.fixture(scope="session")
def warm_host(start_host):
    """Gives one host for each daemon, for tests that leave it as usable as it was."""
    started: dict[str, Host] = {}

    def get(daemon: str) -> Host:
        if daemon not in started:
            started[daemon] = start_host(daemon)
        return started[daemon]

    yield get
    for host in started.values():
        host.close()
