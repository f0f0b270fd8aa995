"""What the suites of transports share: engines, wires and workers to test with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, ClassVar

import psutil
import pytest

from soma_core.channel.contract import Transport
from soma_core.channel.deadline import Deadline
from soma_core.client.connect import transport_maker
from soma_core.client.worker import Worker
from soma_core.errors import SomaError
from soma_core.plugins.manager import installed_plugins
from soma_core.testing.clauses import TRANSPORT_CLAUSES, Capability, Clause
from soma_core.testing.filters import Actions, Echo, Mean
from soma_core.testing.suite import ConformanceSuite
from soma_core.testing.wire import Wire
from soma_core.wire.message import Dialect

START = 60.0
"""Seconds that a start may take, which is mostly imports."""


class _Warm:
    """A worker and a wire that the tests of a class share; a broken one is replaced."""

    def __init__(self, make: Callable[[], Transport], patience: float) -> None:
        self._make = make
        self._patience = patience
        self._worker: Worker | None = None
        self._wire: Wire | None = None
        self._wired: Transport | None = None

    def worker(self) -> Worker:
        if self._worker is None or not _answers(self._worker, self._patience):
            self.close_worker()
            self._worker = Worker(self._make(), timeout=self._patience)
            self._worker.load({"echo": Echo(), "actions": Actions()})
        return self._worker

    def wire(self) -> Wire:
        if self._wire is None or not self._wire.in_step():
            self.close_wire()
            self._wired = self._make()
            self._wire = Wire(self._wired.start(START), self._patience)
            self._wire.load(echo=Echo(), actions=Actions(), mean=Mean())
        return self._wire

    def close_worker(self) -> None:
        if self._worker is not None:
            with suppress(Exception):  # a clause of its own checks whether it raises
                self._worker.close()
            self._worker = None

    def close_wire(self) -> None:
        if self._wired is not None:
            end(self._wired)
            self._wire = self._wired = None


def _answers(worker: Worker, timeout: float) -> bool:
    try:
        worker.ping(timeout=timeout)
    except (SomaError, OSError):
        return False
    return True


def end(transport: Transport) -> None:
    """Stop a transport; a clause of its own checks whether that raises."""
    with suppress(Exception):  # a clause of its own checks whether it raises
        transport.stop(0.0)


def _no_daemon() -> AbstractContextManager[dict[str, Any]]:
    return nullcontext({})


class TransportSuite(ConformanceSuite):
    """The fixtures of the clauses; see :class:`~soma_core.testing.TransportConformance`."""

    clauses: ClassVar[Mapping[str, Clause]] = TRANSPORT_CLAUSES
    transport: ClassVar[str | type[Transport]]
    daemon: ClassVar[Callable[[], AbstractContextManager[dict[str, Any]]]] = staticmethod(
        _no_daemon
    )
    patience: ClassVar[float] = 20.0

    @pytest.fixture(scope="class")
    @classmethod
    def options(cls) -> Iterator[dict[str, Any]]:
        """The options of the transport: those that ``daemon`` yields."""
        with cls.daemon() as options:
            yield options

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, options: dict[str, Any]) -> Callable[[], Transport]:
        """Makes a transport that is not started; nobody ends it."""
        transport = cls.transport
        if isinstance(transport, str):
            return transport_maker(transport, dict(options), installed_plugins())
        return lambda: transport(transport.Options(**options))

    @pytest.fixture(scope="class")
    @classmethod
    def _warm(cls, make: Callable[[], Transport]) -> Iterator[_Warm]:
        warm = _Warm(make, cls.patience)
        yield warm
        warm.close_worker()
        warm.close_wire()

    @pytest.fixture
    def worker(self, _warm: _Warm) -> Worker:
        """A worker with the nodes ``echo`` and ``actions`` that other tests use as well."""
        return _warm.worker()

    @pytest.fixture
    def wire(self, _warm: _Warm) -> Wire:
        """A wire with the nodes ``echo``, ``actions`` and ``mean`` that other tests use as well."""
        return _warm.wire()

    @pytest.fixture
    def fresh(self, make: Callable[[], Transport]) -> Iterator[Transport]:
        """A transport of this test's own, not started; it is ended afterwards."""
        transport = make()
        yield transport
        end(transport)

    @pytest.fixture
    def own_wire(self, fresh: Transport) -> Wire:
        """A wire of this test's own, over ``fresh``."""
        wire = Wire(fresh.start(START), self.patience)
        wire.load(echo=Echo(), actions=Actions())
        return wire

    @pytest.fixture
    def own_worker(self, fresh: Transport) -> Iterator[Worker]:
        """A worker of this test's own, over ``fresh``."""
        worker = Worker(fresh, timeout=self.patience)
        worker.load({"echo": Echo(), "actions": Actions()})
        yield worker
        with suppress(Exception):  # a clause of its own checks whether it raises
            worker.close()

    @property
    def _prompt(self) -> float:
        """Seconds in which what needs no computing must be done."""
        return self.patience / 4

    def _soon(self, condition: Callable[[], bool], after: float = 0.0) -> bool:
        deadline = Deadline.after(after + self._prompt)
        while not condition():
            if deadline.over():
                return False
            time.sleep(0.02)
        return True

    def _dialects(self) -> list[Dialect]:
        lines = [] if Capability.LINES in self.lacks else [Dialect.LINE]
        return [Dialect.FRAME, *lines]


def runs(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def children() -> list[int]:
    """The processes that came of this one and run."""
    return [child.pid for child in psutil.Process().children(recursive=True) if runs(child.pid)]
