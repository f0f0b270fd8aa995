"""The fault kit itself: it notices what it is there to notice."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading

import cloudpickle
import numpy as np
import pytest

import soma_core as soma
from soma_core.testing import (
    GRACE,
    CallEnd,
    Fault,
    Faulty,
    Moment,
    OpenResources,
    ProcessMark,
    attempt,
)

from ..support import wait_until


def test_a_call_without_an_end_is_noticed():
    release = threading.Event()
    trial = attempt(release.wait, 0.1, patience=0.2)
    release.set()
    assert trial.end is CallEnd.NONE
    assert trial.late
    assert not trial.worker_survived


def test_a_call_that_ends_after_the_grace_is_late():
    assert attempt(lambda: None, -GRACE - 1.0).late
    assert not attempt(lambda: None, 60.0).late


@pytest.mark.parametrize(
    ("error", "end", "survived"),
    [
        (soma.WorkerDied("gone"), CallEnd.WORKER_DIED, False),
        (soma.RemoteError("no"), CallEnd.REMOTE_ERROR, True),
        (soma.DeadlineExceeded("late", worker_survived=True), CallEnd.DEADLINE_EXCEEDED, True),
        (soma.DeadlineExceeded("late", worker_survived=False), CallEnd.DEADLINE_EXCEEDED, False),
        (soma.ChannelClosed("closed"), CallEnd.OTHER_SOMA_ERROR, False),
        (RuntimeError("of nobody"), CallEnd.UNTYPED_ERROR, False),
    ],
)
def test_every_kind_of_end_is_told_apart(error, end, survived):
    def call():
        raise error

    trial = attempt(call, 1.0)
    assert (trial.end, trial.worker_survived, trial.error) == (end, survived, error)


@pytest.mark.parametrize("moment", list(Moment))
def test_a_fault_does_not_happen_in_the_host(moment):
    faulty = Faulty(Fault.RAISE, moment)
    cloudpickle.dumps(faulty)
    faulty.meta()
    assert faulty.fit([1]) == {"learned": [1]}
    assert faulty.forward([1]) == [1]


@pytest.mark.parametrize("moment", [Moment.LOAD, Moment.FIT, Moment.FORWARD, Moment.GET_STATE])
def test_a_fault_happens_at_its_moment_and_at_no_other(moment):
    arrived = pickle.loads(pickle.dumps(Faulty(Fault.RAISE, moment)))
    deeds = {
        Moment.LOAD: arrived.meta,
        Moment.FIT: lambda: arrived.fit([1]),
        Moment.FORWARD: lambda: arrived.forward([1]),
        Moment.GET_STATE: lambda: pickle.dumps(arrived),
    }
    with pytest.raises(RuntimeError, match="a fault was injected"):
        deeds.pop(moment)()
    for deed in deeds.values():
        deed()


def test_a_fault_at_import_happens_when_the_filter_arrives():
    data = pickle.dumps(Faulty(Fault.RAISE, Moment.IMPORT))
    with pytest.raises(RuntimeError, match="a fault was injected"):
        pickle.loads(data)


def test_no_fault_may_end_in_nothing():
    allowed = set(CallEnd) - {CallEnd.NONE, CallEnd.UNTYPED_ERROR, CallEnd.OTHER_SOMA_ERROR}
    for fault in Fault:
        assert fault.ends
        assert fault.ends <= allowed


def test_a_mark_finds_a_process_whose_parent_is_gone():
    mark = ProcessMark()
    script = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, env={**os.environ, **mark.environment}, stdout=subprocess.PIPE, text=True
    ) as parent:
        orphan = int(parent.stdout.readline())
        parent.wait()
    wait_until(lambda: {process.pid for process in mark.processes()} == {orphan})
    assert mark.wait_until_gone(0.0) == {orphan}
    assert mark.wait_until_gone(0.0, but={orphan}) == set()
    mark.kill()
    assert mark.wait_until_gone(20.0) == set()


def test_a_descriptor_that_stays_open_is_noticed():
    before = OpenResources.of()
    assert not before.wait_until_released(0.0).exceeds(before)
    reading, writing = os.pipe()
    assert before.wait_until_released(0.0).exceeds(before)
    os.close(reading)
    os.close(writing)


def test_a_memory_file_that_stays_mapped_is_noticed():
    with soma.connect("stdio", filters={"echo": Faulty(Fault.RAISE, Moment.FIT)}) as worker:
        before = OpenResources.of()
        kept = worker.forward("echo", np.ones(1 << 17))
        assert OpenResources.of().memory_files > before.memory_files
        assert kept.all()
