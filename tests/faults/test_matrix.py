"""Every fault, at every moment, over every transport: the call ends, and only the call.

The gate runs each moment over each transport once, with those faults that leave most to tidy up;
the conformance kit, which runs in it too, has each fault once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product

import psutil
import pytest

import soma_core as soma
from soma_core.testing import CallEnd, Fault, Moment, OpenResources, ProcessMark, inject

from ..support import (
    PROCESSES,
    SocketDaemon,
    gate_runs,
    short_directory,
    socket_daemon,
    wait_until,
)
from ..support import filters as f

CODES = {
    Moment.IMPORT: soma.ErrorCode.LOAD_FAILED,
    Moment.LOAD: soma.ErrorCode.LOAD_FAILED,
    Moment.FIT: soma.ErrorCode.FILTER_FAILED,
    Moment.FORWARD: soma.ErrorCode.FILTER_FAILED,
    Moment.GET_STATE: soma.ErrorCode.FILTER_FAILED,
}


MATRIX = list(product(PROCESSES, Fault, Moment))
WORST = [
    Fault.HANG_IN_C,
    Fault.FORK_AND_DIE,
    Fault.PRINT_WITHOUT_END,
    Fault.CLOSE_DESCRIPTORS,
    Fault.HANG_DEAF,
    Fault.SEGFAULT,
    Fault.BECOME_DAEMON,
    Fault.EXHAUST_MEMORY,
    Fault.FORK,
    Fault.KILL,
]
SAMPLE = [
    (transport, fault, moment)
    for fault, (transport, moment) in zip(WORST, product(PROCESSES, Moment), strict=True)
]


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


@pytest.mark.parametrize(
    ("transport", "fault", "moment"),
    gate_runs(*SAMPLE, of=MATRIX),
    ids=lambda value: getattr(value, "name", value),
)
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

    assert site.mark.wait_until_gone(30.0, but={site.daemon.pid}) == set()
    trial = None  # its error holds frames, and they the worker
    del worker, next_worker
    assert not before.wait_until_released(30.0).exceeds(before)
    wait_until(lambda: psutil.Process(site.daemon.pid).num_fds() <= descriptors)
