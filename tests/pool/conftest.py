"""Pools over each transport, and the filters that their tests need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import soma_core as soma

from ..support import filters as f


def hold(x: Any, state: Any) -> Any:
    """Say that the call runs, by a file of its own, and go on once another file exists."""
    begun, let_go, answer = x
    begun = f.os.path.join(begun, f"{f.os.getpid()}.{f.time.monotonic_ns()}")
    with open(begun, "w"):
        pass
    while not f.os.path.exists(let_go):
        f.time.sleep(0.01)
    return answer


class Gate:
    """Calls that run until the test lets them go."""

    def __init__(self, directory: Path) -> None:
        self._begun, self._let_go = directory / "begun", directory / "let go"
        self._begun.mkdir()

    def call(self, answer: Any = None) -> tuple[str, str, Any]:
        """The input of a call that runs until :meth:`open`, and returns the answer."""
        return str(self._begun), str(self._let_go), answer

    @property
    def pids(self) -> list[int]:
        """The process of each call that began."""
        return [int(path.name.partition(".")[0]) for path in self._begun.iterdir()]

    def passed(self, answer: Any = None) -> tuple[str, str, Any]:
        """The input of a call that need not wait."""
        return str(self._begun), str(self._begun), answer

    def open(self) -> None:
        self._let_go.touch()


def _filters() -> dict[str, Any]:
    return {
        "echo": f.Echo(),
        "fail": f.Fail(),
        "hold": f.Apply(hold),
        "mean": f.Mean(),
        "process": f.Process(),
        "scale": f.Scale(),
        "sleep": f.Sleep(),
    }


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


@pytest.fixture
def make(options, request) -> Callable[..., soma.WorkerPool]:
    """Like ``soma.WorkerPool``, with filters; the pools are closed at the end of the test."""
    pools = []
    long = "long_grace" in request.fixturenames
    grace = {"interrupt_grace": request.getfixturevalue("long_grace")} if long else {}

    def start(transport: str = "socket", n: int = 2, **arguments: Any) -> soma.WorkerPool:
        arguments = {"filters": _filters(), **options(transport), **grace, **arguments}
        pools.append(soma.WorkerPool(transport, n, **arguments))
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()


@pytest.fixture(scope="session")
def warm(options) -> soma.WorkerPool:
    """A pool of two for all tests that leave it as they found it."""
    with soma.WorkerPool("socket", 2, **options("socket"), filters=_filters()) as pool:
        yield pool
