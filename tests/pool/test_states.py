"""All workers hold the same filters and states, those that come later too."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

import soma_core as soma

from ..support import either, wait_until
from ..support import filters as f


def meet(x, state):
    """Go on when as many processes are here as were announced."""
    (directory, number), answer = x
    with open(f.os.path.join(directory, str(f.os.getpid())), "w"):
        pass
    while len(f.os.listdir(directory)) < number:
        f.time.sleep(0.01)
    return answer


class Meetings:
    def __init__(self, directory) -> None:
        self._directory = directory
        self._number = 0

    def ask_all(self, pool: soma.WorkerPool, node_id: str, x) -> list:
        """What each worker of a pool answers."""
        self._number += 1
        place = self._directory / f"meeting {self._number}"
        place.mkdir()
        calls = [
            pool.submit(["meet", node_id], ((str(place), len(pool)), x)) for _ in range(len(pool))
        ]
        return [call.result(60.0) for call in calls]


@pytest.fixture
def meetings(tmp_path) -> Meetings:
    return Meetings(tmp_path)


FILTERS = {"meet": f.Apply(meet), "mean": f.Mean(), "echo": f.Echo()}


def renew(pool: soma.WorkerPool) -> None:
    """Have every worker replaced."""
    before = {status.pid for status in pool.status()}
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len({s.pid for s in pool.status()} - before) == len(pool))


@either
def test_what_fit_learned_is_used_by_every_worker(make, meetings, transport):
    pool = make(transport, 2, filters=FILTERS)
    assert pool.fit("mean", np.array([1.0, 3.0])) == {"mean": 2.0}
    assert meetings.ask_all(pool, "mean", 5.0) == [3.0, 3.0]
    renew(pool)
    assert meetings.ask_all(pool, "mean", 5.0) == [3.0, 3.0]


@pytest.mark.nightly
def test_what_fit_left_on_the_object_is_used_by_every_worker(make, meetings):
    pool = make(n=2, filters={"meet": f.Apply(meet), "keep": f.Keep()})
    assert pool.fit("keep", "kept", return_state=False) is None
    assert meetings.ask_all(pool, "keep", None) == ["kept", "kept"]
    renew(pool)
    assert meetings.ask_all(pool, "keep", None) == ["kept", "kept"]


@pytest.mark.nightly
def test_weights_are_the_same_in_every_worker(make, with_torch, meetings):
    torch = pytest.importorskip("torch")
    pool = make(n=2, **with_torch, filters={"meet": f.Apply(meet), "net": f.net([[1.0, 2.0]])})
    with soma.connect("inline", filters={"net": f.net([[3.0, 4.0]])}) as trained:
        pool.set_state("net", trained.get_state("net"))
    x = torch.ones(1, 2)
    assert [out.item() for out in meetings.ask_all(pool, "net", x)] == [7.0, 7.0]


def test_the_state_of_a_pool_can_be_put_into_another(make, meetings):
    first, second = make(n=1), make(n=2, filters=FILTERS)
    first.fit("mean", [2.0])
    second.set_state("mean", first.get_state("mean"))
    assert meetings.ask_all(second, "mean", 2.0) == [0.0, 0.0]


def test_a_state_that_does_not_fit_reaches_no_worker(make, meetings):
    pool = make(n=2, filters=FILTERS)
    pool.fit("mean", [2.0])
    with pytest.raises(soma.RemoteError) as caught:
        pool.set_state("mean", soma.NodeState(b"nonsense", "cloudpickle", {"mean": 0.0}))
    assert caught.value.code is soma.ErrorCode.INVALID_STATE
    assert meetings.ask_all(pool, "mean", 3.0) == [1.0, 1.0]
    with pytest.raises(TypeError, match="state is a NodeState"):
        pool.set_state("mean", b"bytes")  # type: ignore[arg-type]


def test_a_fit_that_fails_leaves_nothing_behind(make, meetings):
    class HalfFitted:
        fitted = 0

        def fit(self, x, y=None):
            self.fitted = x
            if x < 0:
                raise ValueError("negative")
            return {}

        def forward(self, x, state):
            return self.fitted

    pool = make(n=2, filters={"meet": f.Apply(meet), "half": HalfFitted()})
    pool.fit("half", 1)
    with pytest.raises(soma.RemoteError, match="negative"):
        pool.fit("half", -1)
    wait_until(lambda: len(pool.status()) == 2)
    assert meetings.ask_all(pool, "half", None) == [1, 1]


def test_filters_loaded_later_are_in_every_worker(make, meetings):
    pool = make(n=2, filters={"meet": f.Apply(meet)})
    assert pool.load({"scale": f.Scale(factor=3.0)})["scale"].kind is soma.FilterKind.STATELESS
    assert meetings.ask_all(pool, "scale", 2.0) == [6.0, 6.0]
    renew(pool)
    assert meetings.ask_all(pool, "scale", 2.0) == [6.0, 6.0]
    assert pool.node_ids == ["meet", "scale"]


@pytest.mark.nightly
def test_a_filter_that_is_replaced_forgets_its_state(make, meetings):
    pool = make(n=2, filters=FILTERS)
    pool.fit("mean", [2.0])
    pool.load({"mean": f.Scale(factor=1.0)})
    assert meetings.ask_all(pool, "mean", 2.0) == [2.0, 2.0]
    renew(pool)
    assert meetings.ask_all(pool, "mean", 2.0) == [2.0, 2.0]


def test_filters_that_cannot_be_loaded_are_in_no_worker(make, meetings):
    pool = make(n=2, filters=FILTERS)
    with pytest.raises(soma.RemoteError):
        pool.load({"good": f.Echo(), "bad": "no.Such"})
    assert pool.node_ids == [*FILTERS]
    assert meetings.ask_all(pool, "echo", 1) == [1, 1]


def test_unloaded_nodes_are_gone_from_every_worker(make, meetings):
    pool = make(n=2, filters=FILTERS)
    pool.unload(["mean"])
    assert pool.node_ids == ["meet", "echo"]
    for _ in range(2):
        with pytest.raises(soma.RemoteError, match="mean"):
            meetings.ask_all(pool, "mean", 1.0)
    assert meetings.ask_all(pool, "echo", 1) == [1, 1]


def test_calls_submitted_after_a_change_see_it(make):
    pool = make(n=3)
    for number in range(20):
        pool.fit("mean", [float(number)])
        calls = [pool.submit("mean", 0.0) for _ in range(6)]
        assert [call.result(60.0) for call in calls] == [-float(number)] * 6


def test_fit_reports_progress(make):
    reports: list[dict] = []
    pool = make(n=1, filters={"report": f.Report()})
    pool.fit("report", 3, progress=reports.append)
    assert [report["epoch"] for report in reports] == [1, 2, 3]


@pytest.mark.nightly
def test_a_pool_without_pickles_shares_states_too(make):
    pytest.importorskip("soma_filters_sklearn")
    pool = make(
        n=2, pickle="never", filters={"scaler": ("sklearn.StandardScaler", {"with_std": False})}
    )
    pool.fit("scaler", np.array([[1.0], [3.0]]))
    outputs = [pool.submit("scaler", np.array([[5.0]])).result(60.0) for _ in range(6)]
    assert [float(output[0, 0]) for output in outputs] == [3.0] * 6
