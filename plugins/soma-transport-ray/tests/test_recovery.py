"""What soma does with workers works unchanged over Ray: restarts, pools, data-parallel training."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

import soma_core as soma
from soma_core.testing import Actions, Mean

from .conftest import FAR, HERE


@pytest.mark.parametrize("resources", [HERE, FAR], ids=["here", "far"])
def test_a_restarted_worker_has_its_filters_and_states(start, resources):
    worker = start({"mean": Mean(), "actions": Actions()}, restart="on-crash", resources=resources)
    worker.fit("mean", [1.0, 3.0])
    with pytest.raises(soma.WorkerDied):
        worker.forward("actions", ["die", int(signal.SIGKILL)])
    assert list(worker.forward("mean", [2.0, 4.0])) == [0.0, 2.0]


def test_a_death_between_calls_costs_no_call_where_it_can_be_seen(start):
    worker = start({"mean": Mean()}, restart="on-crash", resources=HERE)
    pid = worker.ping().pid
    os.kill(pid, signal.SIGKILL)
    while worker.status().alive:
        pass
    assert worker.forward("mean", [2.0])[0] == 2.0
    assert worker.status().restarts == 1


@pytest.mark.parametrize("kind", [TimeoutError, OSError])
def test_what_a_signal_handler_raises_ends_the_call_alone(start, kind):
    def ring(*_):
        raise kind("rung")

    worker = start({"mean": Mean(), "actions": Actions()}, resources=HERE)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(kind, match="rung"):
            worker.forward("actions", ["sleep", 60.0])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert worker.forward("mean", [2.0])[0] == 2.0


def test_a_pool_goes_on_when_one_of_its_workers_dies(ray):
    filters = {"mean": Mean(), "actions": Actions()}
    with soma.WorkerPool("ray", 2, filters=filters, num_cpus=0.5) as pool:
        before = {status.pid for status in pool.status()}
        with pytest.raises(soma.WorkerDied):
            pool.submit("actions", ["die", int(signal.SIGKILL)]).result()
        assert list(pool.map("mean", [np.full(3, number) for number in range(20)]))[7].sum() == 21
    assert len(before) == 2


def test_data_parallel_training_equals_training_in_one_process(start):
    torch = pytest.importorskip("torch")

    class Line(torch.nn.Linear):
        """A linear layer as a filter."""

        def fit(self, x, y=None):
            return {}

        def forward(self, x, state=None):
            return super().forward(torch.as_tensor(x))

    torch.manual_seed(3)
    line = Line(3, 1).double()
    x, y = np.random.default_rng(3).normal(size=(8, 3)), np.ones((8, 1))
    step = {"name": "SGD", "lr": 0.1}
    workers = [start({"line": line}, resources=where) for where in (HERE, FAR)]
    loss = soma.DataParallel(workers, ["line"], optimizer=step).step(x, y)
    with soma.connect("inline", filters={"line": line}) as alone:
        assert loss == pytest.approx(alone.composite_fit(["line"], x, y, optimizer=step).loss)
        expected = alone.forward("line", x)
    for worker in workers:
        assert np.allclose(worker.forward("line", x), expected)


def test_progress_arrives_while_the_command_runs(start, tmp_path):
    """The filter goes on once the host has seen each report: both nodes are on this machine."""

    class Reports:
        def __init__(self, seen):
            self.seen = seen

        def fit(self, x, y=None):
            import os
            import time

            from soma_core import progress

            for number in range(3):
                progress.report(number=number, size=np.full(200_000, number, "u1"))
                while not os.path.exists(f"{self.seen}/{number}"):
                    time.sleep(0.01)
            return "done"

        def forward(self, x, state):
            return x

    worker = start({"reports": Reports(str(tmp_path))}, resources=FAR)
    during = []

    def note(data):
        during.append((data["number"], data["size"].sum(), worker.status().command))
        (tmp_path / str(data["number"])).touch()

    assert worker.fit("reports", 0, progress=note) == "done"
    assert during == [(number, number * 200_000, "FIT") for number in range(3)]
