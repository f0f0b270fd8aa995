"""What a fit goes on from: every kind of node begins anew, or goes on where it is asked to."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest

import soma_core as soma

from ..support import wait_until

X = np.linspace(-1, 1, 60, dtype="f4").reshape(20, 3)
Y = (X @ np.array([[1.0], [-2.0], [0.5]], "f4")).astype("f4")
ADAM = {"name": "Adam", "lr": 0.05}


class Count(soma.Filter):
    """Counts the rows that it has seen."""

    def fit(self, x: Any, y: Any = None) -> Any:
        return {"rows": len(x)}

    def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
        return {"rows": state.get("rows", 0) + len(x)}

    def forward(self, x: Any, state: Any) -> Any:
        return x


class Share(Count):
    """Begins with what it makes of all targets."""

    def initial_state(self, y: Any) -> Any:
        return {"rows": 100 * len(y)}


class Mean(soma.Filter):
    """Learns from all rows at once, and in no other way."""

    def fit(self, x: Any, y: Any = None) -> Any:
        return {"mean": x.mean(axis=0)}

    def forward(self, x: Any, state: Any) -> Any:
        return x - state["mean"]


class Picky(Count):
    def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
        if len(x) > 5:
            raise ValueError("more than I can take")
        return super().partial_fit(x, y, state)


def raw_net() -> Any:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.norm = torch.nn.BatchNorm1d(3)
            self.linear = torch.nn.Linear(3, 1)
            self.optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
            self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1)

        def forward(self, x: Any, state: Any = None) -> Any:
            return self.linear(self.norm(x))

    return Net()


def mlp() -> Any:
    return pytest.importorskip("soma_filters_torch.filters").MLP(
        sizes=[3, 8, 1], seed=4, scheduler={"name": "StepLR", "step_size": 1}
    )


def sgd() -> Any:
    pytest.importorskip("soma_filters_sklearn")
    return ("sklearn.SGDRegressor", {"random_state": 0})


KINDS = {"count": Count, "share": Share, "sgd": sgd, "net": raw_net, "mlp": mlp}


def learned(worker: Any, node_id: str) -> Any:
    """What a node holds, as something to compare."""
    state = worker.get_state(node_id)
    if state.format == "torch":
        return state.data
    return repr(state.fit_state)


def fit(worker: Any, node_id: str, x: Any = X, y: Any = Y, **options: Any) -> Any:
    targets = y[:, 0] if node_id == "sgd" else y
    return worker.batched_fit([node_id], x, targets, batch_size=10, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_each_batched_fit_begins_anew(worker: Any, kind: str) -> None:
    worker.load({kind: KINDS[kind]()})
    first = fit(worker, kind, epochs=2).losses
    once = learned(worker, kind)
    assert fit(worker, kind, epochs=2).losses == first
    assert learned(worker, kind) == once


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_that_resumes_goes_on_from_what_was_learned(worker: Any, kind: str) -> None:
    worker.load({kind: KINDS[kind]()})
    if kind == "share":
        assert fit(worker, kind).states == {"share": {"rows": 2020}}
        assert fit(worker, kind, resume=True).states == {"share": {"rows": 2040}}
        return
    whole = fit(worker, kind, epochs=4)
    expected = learned(worker, kind)
    parts = [fit(worker, kind, epochs=2, resume=resume) for resume in (False, True)]
    assert [loss for part in parts for loss in part.losses] == whole.losses
    assert learned(worker, kind) == expected


@pytest.mark.parametrize("kind", ["net", "mlp"])
def test_what_fit_composite_fit_and_set_state_put_is_forgotten_too(inline: Any, kind: str) -> None:
    inline.load({kind: KINDS[kind]()})
    first = fit(inline, kind).losses
    state = inline.get_state(kind)
    inline.composite_fit([kind], X, Y)
    assert fit(inline, kind).losses == first
    inline.set_state(kind, state)
    assert fit(inline, kind).losses == first
    inline.set_state(kind, state)
    assert fit(inline, kind, resume=True).losses != first


def test_an_optimizer_that_commands_name_begins_anew_with_its_chain(inline: Any) -> None:
    inline.load({"mlp": mlp()})
    whole = fit(inline, "mlp", epochs=4, optimizer=ADAM).losses
    assert fit(inline, "mlp", epochs=2, optimizer=ADAM).losses == whole[:2]
    assert fit(inline, "mlp", epochs=2, optimizer=ADAM, resume=True).losses == whole[2:]


def test_nodes_that_are_not_trainable_stay_as_they_are(inline: Any) -> None:
    inline.load({"count": Count()})
    inline.fit("count", X)
    inline.load({"fixed": Count()}, trainable=False)
    inline.set_state("fixed", soma.NodeState(b"{}", "value", {"rows": 7}))
    inline.batched_fit(["fixed", "count"], X)
    assert inline.get_state("fixed").fit_state == {"rows": 7}


def test_a_fit_whose_first_batch_fails_forgets_nothing(inline: Any) -> None:
    inline.load({"picky": Picky()})
    inline.batched_fit(["picky"], X, batch_size=5)
    with pytest.raises(soma.RemoteError, match="more than I can take"):
        inline.batched_fit(["picky"], X, batch_size=6)
    assert inline.get_state("picky").fit_state == {"rows": 20}


@pytest.mark.parametrize("optimizer", [None, ADAM])
def test_a_mistake_in_the_arguments_costs_no_parameters_and_no_moments(
    inline: Any, optimizer: Any
) -> None:
    inline.load({"mlp": mlp()})
    whole = fit(inline, "mlp", epochs=4, optimizer=optimizer).losses
    fit(inline, "mlp", epochs=2, optimizer=optimizer)
    with pytest.raises(soma.RemoteError, match="shape"):
        fit(inline, "mlp", y=Y[:, [0, 0]], optimizer=optimizer)
    with pytest.raises(soma.RemoteError, match="equally many rows"):
        fit(inline, "mlp", y=Y[:3], optimizer=optimizer)
    rest = fit(inline, "mlp", epochs=2, optimizer=optimizer, resume=True).losses
    assert rest == whole[2:]


def test_a_node_that_learns_from_all_rows_at_once_stays_where_others_go_on(inline: Any) -> None:
    inline.load({"mean": Mean(), "count": Count()})
    inline.batched_fit(["mean", "count"], X, batch_size=20)
    before = inline.get_state("mean").fit_state["mean"]
    inline.batched_fit(["mean", "count"], X[:5], resume=True)
    assert np.array_equal(inline.get_state("mean").fit_state["mean"], before)
    assert inline.get_state("count").fit_state == {"rows": 25}


def test_a_chain_that_cannot_go_on_is_refused_by_name(inline: Any) -> None:
    inline.load({"mean": Mean()})
    inline.batched_fit(["mean"], X, resume=True)  # it has learned nothing yet
    with pytest.raises(soma.RemoteError, match="resume: 'mean' cannot go on") as caught:
        inline.batched_fit(["mean"], X, resume=True)
    assert caught.value.code == "invalid_command"


@pytest.mark.parametrize("kind", ["count", "sgd", "mlp"])
def test_partial_fit_goes_on_in_one_node(worker: Any, kind: str) -> None:
    worker.load({kind: KINDS[kind]()})
    targets = Y[:, 0] if kind == "sgd" else Y
    states = [worker.partial_fit(kind, X[part], targets[part]) for part in (slice(8), slice(8, 20))]
    if kind == "count":
        assert states == [{"rows": 8}, {"rows": 20}]
    assert repr(states[1]) == repr(worker.get_state(kind).fit_state)
    assert repr(states[0]) != repr(states[1])
    assert worker.partial_fit(kind, X, targets, return_state=False) is None


def test_partial_fit_of_a_module_is_one_step_of_training(inline: Any) -> None:
    inline.load({"net": raw_net(), "same": raw_net()})
    for _ in range(3):
        inline.partial_fit("net", X, Y)
        inline.composite_fit(["same"], X, Y)
    assert inline.get_state("net").data == inline.get_state("same").data
    with pytest.raises(soma.RemoteError, match="needs targets"):
        inline.partial_fit("net", X)


def test_partial_fit_of_what_cannot_go_on_is_refused_by_name(inline: Any) -> None:
    inline.load({"mean": Mean()})
    with pytest.raises(soma.RemoteError, match="node 'mean' is a Mean, which cannot go on"):
        inline.partial_fit("mean", X)


def kill(worker: Any) -> None:
    os.kill(worker.ping().pid, signal.SIGKILL)
    wait_until(lambda: not worker.status().alive)


@pytest.mark.nightly
def test_a_partial_fit_that_was_acknowledged_outlives_its_worker() -> None:
    with soma.connect("stdio", filters={"count": Count()}, restart="on-crash") as worker:
        worker.partial_fit("count", X)
        kill(worker)
        assert worker.partial_fit("count", X) == {"rows": 40}
        worker.partial_fit("count", X, return_state=False)
        kill(worker)
        with pytest.raises(soma.StateLost, match="partial_fit"):
            worker.forward("count", X)
