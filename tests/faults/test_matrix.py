"""Every fault, at every moment, over every transport: the call ends, and only the call.

A sample runs by default, with every fault over every transport at one moment; all of them run with
``pytest tests/faults/test_matrix.py --all-faults``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product

import psutil
import pytest

import soma_core as soma
from soma_core.testing import CallEnd, Fault, Moment, OpenResources, ProcessMark, inject

from ..support import PROCESSES, SocketDaemon, short_directory, socket_daemon, wait_until
from ..support import filters as f

CODES = {
    Moment.IMPORT: soma.ErrorCode.LOAD_FAILED,
    Moment.LOAD: soma.ErrorCode.LOAD_FAILED,
    Moment.FIT: soma.ErrorCode.FILTER_FAILED,
    Moment.FORWARD: soma.ErrorCode.FILTER_FAILED,
    Moment.GET_STATE: soma.ErrorCode.FILTER_FAILED,
}


def everything() -> list[tuple[str, Fault, Moment]]:
    return list(product(PROCESSES, Fault, Moment))


def sample() -> list[tuple[str, Fault, Moment]]:
    """Each fault over each transport once, the moments taking turns."""
    pairs = list(product(PROCESSES, Fault))
    moments = list(Moment)
    return [(*pair, moments[index % len(moments)]) for index, pair in enumerate(pairs)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "moment" in metafunc.fixturenames:
        cases = everything() if metafunc.config.getoption("--all-faults") else sample()
        ids = [f"{transport}-{fault.name}-{moment.name}" for transport, fault, moment in cases]
        metafunc.parametrize(("transport", "fault", "moment"), cases, ids=ids)


class Site:
    """A daemon and workers whose processes are found wherever they go."""

    def __init__(self, daemon: SocketDaemon, mark: ProcessMark) -> None:
        self.daemon, self.mark = daemon, mark

    def connect(self, transport: str) -> soma.Worker:
        options = {"socket": {"path": self.daemon.path}, "stdio": {"env": self.mark.environment}}
        return soma.connect(transport, filters={"echo": f.Echo()}, **options[transport])


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    mark = ProcessMark()
    environment = {**os.environ, **mark.environment}
    with short_directory() as directory:
        with socket_daemon(directory / "soma.sock", env=environment) as daemon:
            yield Site(daemon, mark)
        assert os.listdir(directory) == []
    assert mark.wait_until_gone(30.0) == set()


def test_a_fault_ends_its_call_as_declared_and_harms_nothing_else(
    site: Site, transport: str, fault: Fault, moment: Moment
) -> None:
    descriptors = psutil.Process(site.daemon.pid).num_fds()
    before = OpenResources.of()
    worker = site.connect(transport)
    try:
        trial = inject(worker, fault, moment)
        assert trial.end in fault.ends, trial
        assert not trial.late, trial
        if fault.ends == {CallEnd.REMOTE_ERROR}:
            assert (trial.error.code, trial.error.node_id) == (CODES[moment], "faulty")
        if trial.worker_survived:
            assert worker.forward("echo", [1, b"2"], timeout=30.0) == [1, b"2"]
        else:
            with pytest.raises(soma.WorkerDied):
                worker.ping(timeout=30.0)
    finally:
        worker.close()
    with site.connect(transport) as next_worker:
        assert next_worker.forward("echo", "next", timeout=30.0) == "next"

    if fault.escapes:  # what left the worker's session on purpose is not followed
        site.mark.kill(but={site.daemon.pid})
    assert site.mark.wait_until_gone(30.0, but={site.daemon.pid}) == set()
    trial = None  # its error holds frames, and they the worker
    del worker, next_worker
    assert not before.wait_until_released(30.0).exceeds(before)
    wait_until(lambda: psutil.Process(site.daemon.pid).num_fds() <= descriptors)


def test_the_sample_has_every_fault_over_every_transport_and_every_moment() -> None:
    chosen = sample()
    assert {(transport, fault) for transport, fault, _ in chosen} == set(product(PROCESSES, Fault))
    assert {(transport, moment) for transport, _, moment in chosen} == set(
        product(PROCESSES, Moment)
    )
