"""Workers over each transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import soma_core as soma

from ..support import filters as f

TRANSPORTS = ["inline", "stdio", "socket"]
PROCESSES = ["stdio", "socket"]


@pytest.fixture(scope="session")
def options(request) -> Callable[[str], dict[str, Any]]:
    """The options that each transport needs here."""

    def of(transport: str) -> dict[str, Any]:
        if transport == "socket":
            return {"path": request.getfixturevalue("shared_socket_daemon").path}
        return {}

    return of


@pytest.fixture
def connect(options) -> Callable[..., soma.Worker]:
    """Like ``soma.connect``; the workers are closed at the end of the test."""
    workers = []

    def start(transport: str, **arguments: Any) -> soma.Worker:
        workers.append(soma.connect(transport, **options(transport), **arguments))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def _filters() -> dict[str, Any]:
    return {
        "accumulate": f.Accumulate(),
        "echo": f.Echo(),
        "fail": f.Fail(),
        "fail oddly": f.FailOddly(),
        "keep": f.Keep(),
        "mean": f.Mean(),
        "received": f.Received(),
        "report": f.Report(),
        "scale": f.Scale(),
        "sleep": f.Sleep(),
        "spoil": f.Spoil(),
    }


@pytest.fixture(scope="session", params=TRANSPORTS)
def warm(request, options) -> soma.Worker:
    """One worker of each transport for all tests that leave it as they found it."""
    with soma.connect(request.param, **options(request.param), filters=_filters()) as worker:
        yield worker
