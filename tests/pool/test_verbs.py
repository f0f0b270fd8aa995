"""The methods that a pool has in common with a Worker do the same."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest

import soma_core as soma

from ..support import filters as f
from ..support.installing import install, python_path

X, Y = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0], [0.0]])
ADAM = {"name": "Adam", "lr": 0.1}


def test_forward_waits_for_the_result(warm):
    assert warm.forward("scale", 2.0) == 4.0
    assert warm.forward("mean", 5.0, {"mean": 2.0}) == 3.0
    assert warm.composite_forward(["scale", "mean"], 2.0, {"mean": {"mean": 1.0}}) == 3.0


def test_a_node_can_be_used_as_a_filter(make):
    pool = make(n=2)
    mean = pool.filter("mean")
    assert mean.fit([1.0, 3.0]) == {"mean": 2.0}
    assert (mean.forward(5.0), mean.trainable) == (3.0, True)
    with pytest.raises(KeyError, match=r"'none' is not loaded; loaded: echo"):
        pool.filter("none")


def train(trained: soma.Worker | soma.WorkerPool) -> tuple:
    """All that several commands of training return, and the weights in the end."""
    chain = ["scale", "net"]
    steps = [trained.composite_fit(chain, X, Y, optimizer=ADAM).loss for _ in range(3)]
    epochs = trained.batched_fit(
        chain, X, Y, batch_size=1, epochs=2, shuffle=True, seed=0, optimizer=ADAM
    ).losses
    loss, gradients = trained.compute_gradients(chain, X, Y)
    weights = f.loaded(trained.get_state("net").data)["weight"].tolist()
    return steps, epochs, loss, gradients.keys(), weights


@pytest.mark.nightly
def test_training_that_moves_from_worker_to_worker_equals_training_in_one(make, with_torch):
    filters = {"scale": f.Scale(factor=0.5), "net": f.net([[0.1, 0.2]])}
    pool = make(n=1, recycle_after=2, filters=filters, **with_torch)
    with soma.connect("socket", filters=filters, **with_torch) as worker:
        assert train(pool) == train(worker)
    assert pool.stats().replaced >= 2


def test_what_a_chain_learned_is_used_by_every_worker(make):
    pool = make(n=2, filters={"mean": f.Mean(), "scale": f.Scale()})
    fitted = pool.composite_fit(iter(["scale", "mean"]), np.array([1.0, 3.0]))
    assert fitted.fit_states["mean"] == {"mean": 4.0}
    assert [float(out) for out in pool.map("mean", [5.0] * 20)] == [1.0] * 20
    rows = pool.batched_fit(["mean"], np.array([[2.0], [4.0]]), batch_size=2, collect="all")
    assert rows.states == {"mean": {"mean": 3.0}}
    assert [float(out) for out in pool.map("mean", [5.0] * 20)] == [2.0] * 20


def validated(trained: soma.Worker | soma.WorkerPool) -> tuple:
    """What a fit that goes on, is validated and stops early comes to, and what is answered then."""
    rows = np.linspace(-1.0, 1.0, 40).reshape(-1, 1)
    classes = (rows[:, 0] > 0).astype(int)
    trained.load({"line": ("sklearn.SGDClassifier", {"random_state": 0})})
    fit = {"validation": (rows, classes), "metrics": {"right": "accuracy"}, "patience": 2}
    epochs = []
    first = trained.batched_fit(
        ["line"], rows, classes, epochs=30, restore_best=True, on_epoch=epochs.append, **fit
    )
    then = trained.batched_fit(["line"], rows, classes, resume=True, **fit)
    state = trained.partial_fit("line", rows, classes)
    answers = [
        trained.predict("line", rows).tolist(),
        trained.call_method("decision_function", "line", rows).tolist(),
        trained.score("line", rows, classes),
    ]
    return epochs, first.history, first.best_epoch, then.history, state["t_"], answers


def test_a_pool_validates_goes_on_and_answers_as_a_worker_does(inline_pair):
    worker, pool = inline_pair
    assert validated(pool) == validated(worker)


def test_calls_of_every_kind_have_a_deadline_and_a_priority(inline_pair):
    _, pool = inline_pair
    assert pool.forward("scale", 2.0, deadline=60.0, priority=1) == 4.0
    assert pool.composite_forward(["scale", "scale"], 2.0, deadline=60.0, priority=1) == 8.0
    for call in (pool.forward, pool.composite_forward):
        with pytest.raises(soma.DeadlineExceeded):
            call(["scale"], 2.0, deadline=0.0)


def test_what_a_worker_holds_is_listed_saved_and_streamed(inline_pair, tmp_path):
    for trained in inline_pair:
        trained.load({"mean": f.Mean(), "count": Counting()})
        trained.fit("mean", [1.0, 3.0])
        assert list(trained.list().nodes) == ["scale", "mean", "count"]
        assert trained.ping().pid == os.getpid()
        trained.save_checkpoint(tmp_path / "saved")
        trained.set_state("mean", soma.NodeState(None, "value", {"mean": 7.0}))
        trained.load_checkpoint(tmp_path / "saved")
        assert trained.forward("mean", 5.0) == 3.0
        assert [*trained.stream(["count", "scale"], [np.ones(2), np.ones(3)])] == [4, 10]


class Counting(f.Accumulate):
    """Learns from each chunk, and gives the number of rows so far."""

    def forward(self, x, state):
        return state["rows"]

    def meta(self):
        return soma.FilterMeta(name="Counting", stream_mode=soma.StreamMode.EVOLVING)


def test_an_argument_that_a_method_does_not_take_is_refused_at_once(inline_pair):
    for trained in inline_pair:
        with pytest.raises(
            TypeError, match=r"Worker(Pool)?\.fit\(\) .*'retrun_state'; did you mean return_state"
        ):
            trained.fit("mean", [1.0], retrun_state=False)
        with pytest.raises(TypeError, match=r"Worker\.predict\(\) missing a? ?required|'x'"):
            trained.predict("mean")


PLUGIN = '''
from typing import Literal
import soma_core as soma
from soma_core.verbs import Command, CommandSpec, Data

class Learn(Command):
    """Give a node a state."""
    cmd: Literal["LEARN"]
    node_id: str
    data: Data = None

def learn(command, engine):
    node = engine.nodes.get(command.node_id)
    before, node.state = node.state, command.data
    return before

@soma.hookimpl
def soma_register_commands():
    return [CommandSpec(Learn, learn)]
'''


@pytest.fixture
def pool_with_plugin(make, tmp_path) -> soma.WorkerPool:
    install(tmp_path, "acme", {"soma.plugins": {"acme": "acme"}}, {"acme": PLUGIN})
    return make("stdio", n=2, env={"PYTHONPATH": python_path(tmp_path)})


def test_a_command_of_a_plugin_runs_in_one_worker(pool_with_plugin):
    pool = pool_with_plugin
    assert pool.call("LEARN", {"node_id": "mean", "data": {"mean": 1.0}}) == {}
    with pytest.raises(soma.RemoteError, match="'none'"):
        pool.call("LEARN", {"node_id": "none"})
    with pytest.raises(ValueError, match=r"Worker\.fit"):
        pool.call("FIT")


@pytest.mark.nightly
def test_what_a_command_of_a_plugin_changed_is_in_every_worker(pool_with_plugin):
    pool = pool_with_plugin
    pool.call("LEARN", {"node_id": "mean", "data": {"mean": 1.0}}, changes_states=True)
    assert [float(out) for out in pool.map("mean", [5.0] * 20)] == [4.0] * 20


def test_a_stuck_call_is_given_up_and_the_worker_goes_on(make, long_grace):
    pool = make(n=1, stall_timeout=2.0)
    with pytest.raises(soma.DeadlineExceeded, match=r"made no progress for 2 s") as caught:
        pool.forward("sleep", ("naps", 600.0))
    assert caught.value.worker_survived
    assert pool.forward("echo", 1) == 1


def test_each_worker_is_recorded_in_a_file_of_its_own(make, tmp_path):
    pool = make(n=1, record=tmp_path / "calls.jsonl")
    pool.forward("echo", 1)
    pool.refresh()
    pool.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["calls-1.jsonl", "calls-2.jsonl"]
    assert all(path.stat().st_size for path in tmp_path.iterdir())


def test_a_recording_that_cannot_be_written_is_said_at_once(make, tmp_path):
    (tmp_path / "calls-1.jsonl").write_text("something else")
    with pytest.raises(ValueError, match="is not a recording"):
        make(n=1, record=soma.Recording(tmp_path / "calls.jsonl"))


@pytest.mark.parametrize("run", ["unload", "composite_forward", "stream"])
def test_a_text_in_the_place_of_node_ids_is_refused(inline_pair, run):
    worker, pool = inline_pair
    of = worker if run == "stream" else pool
    with pytest.raises(TypeError, match=r"the text 'scale'; give \['scale'\]"):
        getattr(of, run)("scale", *([] if run == "unload" else [[1.0]]))


@pytest.mark.parametrize("limit", ["timeout", "deadline"])
@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_a_time_limit_that_is_none_is_refused_at_once(inline_pair, limit, seconds):
    _, pool = inline_pair
    with pytest.raises(ValueError, match=f"{limit} is a number of seconds from 0"):
        pool.submit("scale", 1.0, **{limit: seconds})


def test_filters_in_the_place_of_the_transport_are_refused_as_by_connect():
    with pytest.raises(TypeError) as expected:
        soma.connect({"scale": f.Scale()})
    with pytest.raises(TypeError, match=re.escape(str(expected.value))):
        soma.WorkerPool({"scale": f.Scale()})


@pytest.fixture
def inline_pair():
    """A worker, and a pool of another."""
    filters = {"scale": f.Scale()}
    with (
        soma.connect("inline", filters=filters) as worker,
        soma.WorkerPool("inline", 1, filters=filters) as pool,
    ):
        yield worker, pool
