"""Several workers train as one, and stay equal whatever happens."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

import soma_core as soma

from ..support import nightly
from ..support.filters import loaded, saved

torch = pytest.importorskip("torch")

CHAIN = ["body", "head"]
FILTERS = {
    "body": ("torch.MLP", {"sizes": [5, 8, 4], "seed": 1, "lr": 0.01}),
    "head": ("torch.MLP", {"sizes": [4, 1], "seed": 2, "lr": 0.02}),
}
NAMED = {"name": "Adam", "lr": 0.03}


class Fragile(torch.nn.Module):
    """Ends its process when its gradients are computed or applied, if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(5, 1)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Any, state: Any = None) -> Any:
        self.batches += torch.is_grad_enabled()
        if state == "die at the step":
            step = self.optimizer.step
            self.optimizer.step = lambda: os.kill(os.getpid(), signal.SIGKILL) or step()
        elif state == "die now":
            os.kill(os.getpid(), signal.SIGKILL)
        return self.linear(x)


@pytest.fixture(
    scope="module",
    params=[("inline",) * 3, pytest.param(("inline", "stdio", "socket"), marks=nightly)],
    ids=" ".join,
)
def mixed(request: Any) -> Iterator[list[soma.Worker]]:
    """Three workers, at night over each transport."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(soma.connect(name, **_options(request, name)))
            for name in request.param
        ]


def _options(request: Any, transport: str) -> dict[str, Any]:
    return request.getfixturevalue("with_torch") if transport == "socket" else {}


def parameters(worker: soma.Worker, *node_ids: str) -> list[Any]:
    states = [loaded(worker.get_state(node_id, format="torch").data) for node_id in node_ids]
    return [value for state in states for value in state.values()]


def same(left: list[Any], right: list[Any]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


@pytest.mark.parametrize("optimizer", [None, NAMED], ids=["own", "named"])
@pytest.mark.parametrize("rows", [70, pytest.param(2, marks=nightly)])
def test_a_step_equals_one_process_on_the_whole_batch(
    mixed: Any, inline: Any, data: Any, optimizer: Any, rows: int
) -> None:
    x, y = (part[:rows] for part in data)
    for worker in mixed:
        worker.load(FILTERS)
    inline.load(FILTERS)
    parallel = soma.DataParallel(mixed, CHAIN, optimizer=optimizer)
    for _ in range(4):
        whole = inline.composite_fit(CHAIN, x, y, optimizer=optimizer).loss
        assert parallel.step(x, y) == pytest.approx(whole, abs=1e-6)
    replicas = [parameters(worker, *CHAIN) for worker in mixed]
    assert same(replicas[0], replicas[1])
    assert same(replicas[0], replicas[2])
    for one, other in zip(replicas[0], parameters(inline, *CHAIN), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 if rows == 2 else 1e-6)


@pytest.mark.parametrize("optimizer", [None, NAMED], ids=["own", "named"])
def test_a_node_that_is_not_trainable_keeps_its_parameters_as_in_one_process(
    mixed: Any, inline: Any, data: Any, optimizer: Any
) -> None:
    for worker in (*mixed, inline):
        worker.load(FILTERS, trainable={"body": False})
    body = parameters(inline, "body")
    parallel = soma.DataParallel(mixed, CHAIN, optimizer=optimizer)
    for _ in range(2):
        whole = inline.composite_fit(CHAIN, *data, optimizer=optimizer).loss
        assert parallel.step(*data) == pytest.approx(whole, abs=1e-6)
    assert all(same(body, parameters(worker, "body")) for worker in (*mixed, inline))


def test_replicas_that_differ_at_first_are_made_equal(mixed: Any, data: Any) -> None:
    for seed, worker in enumerate(mixed):
        worker.load({"net": ("torch.MLP", {"sizes": [5, 1], "seed": seed})})
    soma.DataParallel(mixed, ["net"]).step(*data)
    replicas = [parameters(worker, "net") for worker in mixed]
    assert same(replicas[0], replicas[1])
    assert same(replicas[0], replicas[2])


@nightly
def test_nodes_that_were_fitted_before_are_used_and_not_fitted_again(
    mixed: Any, inline: Any, data: Any
) -> None:
    chain = ["scaler", *CHAIN]
    for worker in (*mixed, inline):
        worker.load({"scaler": ("sklearn.StandardScaler", {}), **FILTERS})
    mixed[0].fit("scaler", data[0])
    loss = soma.DataParallel(mixed, chain).step(*data)
    assert loss == pytest.approx(inline.composite_fit(chain, *data).loss, abs=1e-6)


@nightly
@pytest.mark.parametrize("when", ["die now", "die at the step"])
@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=nightly)])
def test_a_worker_that_dies_in_a_step_fails_it_whole_and_is_brought_back_by_the_next(
    connect: Any, with_torch: Any, data: Any, when: str, victim: int
) -> None:
    options = {"filters": {"net": Fragile()}, "restart": "on-crash", **with_torch}
    workers = [connect("socket", **options) for _ in range(2)]
    parallel = soma.DataParallel(workers, ["net"])
    parallel.step(*data)
    survivor = workers[1 - victim]
    before = parameters(survivor, "net")
    state = workers[victim].get_state("net", full=True)
    if when == "die now":
        workers[victim].set_state("net", _with(state, when))
    else:
        with pytest.raises(soma.RemoteError):  # the step of the optimizer is spoilt from here
            workers[victim].forward("net", "no data", state=when)
    if (when, victim) == ("die at the step", 0):  # the last to apply: the others have
        parallel.step(*data)
        assert not same(parameters(survivor, "net"), before)
    else:
        with pytest.raises(soma.WorkerDied):
            parallel.step(*data)
        assert same(parameters(survivor, "net"), before)
    parallel.step(*data)
    assert same(*(parameters(worker, "net") for worker in workers))
    assert not same(parameters(survivor, "net"), before)


def _with(state: soma.NodeState, fit_state: Any) -> soma.NodeState:
    return soma.NodeState(state.data, state.format, fit_state, state.training)


class Exact(torch.nn.Module):
    """Parameters in float64, whose gradients on small whole numbers are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[0.5, -1.0, 2.0, 0.25, 1.0]]).double())
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.125)

    def forward(self, x: Any, state: Any = None) -> Any:
        return torch.nn.functional.linear(x, self.weight)


def test_sums_that_are_exact_in_float64_equal_those_of_one_process_to_the_last_bit(
    mixed: Any, inline: Any
) -> None:
    draw = np.random.default_rng(5)
    x, y = draw.integers(-4, 5, (16, 5)) / 4, draw.integers(-4, 5, (16, 1)) / 2
    for worker in (*mixed[:2], inline):
        worker.load({"net": Exact()})
    parallel = soma.DataParallel(mixed[:2], ["net"])
    for _ in range(3):
        assert parallel.step(x, y) == inline.composite_fit(["net"], x, y).loss
    expected = parameters(inline, "net")
    assert expected[0].dtype is torch.float64
    assert all(same(parameters(worker, "net"), expected) for worker in mixed[:2])


class Normalized(torch.nn.Module):
    """Batch normalization, whose statistics are buffers; some rows fail."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = torch.nn.BatchNorm1d(5)
        self.linear = torch.nn.Linear(5, 1)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=0.1)

    def forward(self, x: Any, state: Any = None) -> Any:
        out = self.linear(self.norm(x))
        if bool((x > 1e6).any()):
            raise ValueError("the batch came to an end after the normalization")
        return out


def test_the_statistics_of_batch_normalization_are_averaged_by_rows_in_all_replicas(
    mixed: Any, data: Any
) -> None:
    for worker in mixed:
        worker.load({"net": Normalized()})
    soma.DataParallel(mixed, ["net"]).step(*data)
    replicas = [loaded(worker.get_state("net").data) for worker in mixed]
    cuts = [0, 23, 46, 70]
    means = [data[0][start:end].mean(0) for start, end in itertools.pairwise(cuts)]
    average = 0.1 * np.average(means, axis=0, weights=np.diff(cuts))
    for replica in replicas:
        assert same(list(replica.values()), list(replicas[0].values()))
        assert replica["norm.num_batches_tracked"] == 1
        np.testing.assert_allclose(replica["norm.running_mean"], average, rtol=1e-5, atol=1e-7)


def test_a_step_that_fails_leaves_the_statistics_of_all_replicas_as_they_were(
    mixed: Any, data: Any
) -> None:
    for worker in mixed:
        worker.load({"net": Normalized()})
    parallel = soma.DataParallel(mixed, ["net"])
    parallel.step(*data)
    before = parameters(mixed[0], "net")
    x = data[0].copy()
    x[0] = 1e7
    with pytest.raises(soma.RemoteError, match="came to an end"):
        parallel.step(x, data[1])
    assert all(same(parameters(worker, "net"), before) for worker in mixed)


class Branches(torch.nn.Module):
    """Has a parameter that only negative rows use, and one that none uses."""

    def __init__(self) -> None:
        super().__init__()
        self.always = torch.nn.Parameter(torch.ones(5))
        self.negative = torch.nn.Parameter(torch.ones(5))
        self.never = torch.nn.Parameter(torch.ones(5))
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1, weight_decay=0.1)

    def forward(self, x: Any, state: Any = None) -> Any:
        out = x @ self.always
        return out + x.clamp(max=0) @ self.negative if bool((x < 0).any()) else out


@pytest.mark.parametrize("optimizer", [None, NAMED], ids=["own", "named"])
@pytest.mark.parametrize("signs", [(1, 1, 1), (1, -1, 1)])
def test_parameters_that_rows_do_not_use_are_trained_as_by_one_process(
    mixed: Any, inline: Any, signs: Any, optimizer: Any
) -> None:
    rows = np.random.default_rng(2).uniform(0.5, 1.0, (6, 5)).astype("f4")
    x, y = rows * np.repeat(signs, 2)[:, None].astype("f4"), np.zeros(6, "f4")
    for worker in (*mixed, inline):
        worker.load({"net": Branches()})
    parallel = soma.DataParallel(mixed, ["net"], optimizer=optimizer)
    for _ in range(2):
        parallel.step(x, y)
        inline.composite_fit(["net"], x, y, optimizer=optimizer)
    replicas = [parameters(worker, "net") for worker in mixed]
    assert all(same(replica, replicas[0]) for replica in replicas)
    for one, other in zip(replicas[0], parameters(inline, "net"), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    untouched = [torch.equal(parameter, torch.ones(5)) for parameter in replicas[0]]
    assert untouched == [False, min(signs) > 0, True]


def test_a_batch_that_fails_in_one_worker_changes_nothing(mixed: Any, data: Any) -> None:
    for worker in mixed:
        worker.load(FILTERS)
    parallel = soma.DataParallel(mixed, CHAIN)
    parallel.step(*data)
    before = parameters(mixed[0], *CHAIN)
    with pytest.raises(soma.RemoteError, match="takes x of shape"):
        parallel.step(data[0][:, :3], data[1])
    assert all(same(parameters(worker, *CHAIN), before) for worker in mixed)


@pytest.mark.parametrize(
    ("x", "y", "complaint"),
    [
        (np.zeros((3, 5)), np.zeros((2, 1)), "equally many rows; x has 3, y has 2"),
        ([], [], "x is a list without any"),
        ({"a": [1], "b": [1, 2]}, [1], r"equally many rows; x\['a'\] has 1, x\['b'\] has 2"),
        (3, [1], "x is a int without any"),
    ],
)
def test_what_cannot_be_cut_into_rows_is_refused(
    inline: Any, x: Any, y: Any, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        soma.DataParallel([inline], ["net"]).step(x, y)


def test_there_must_be_workers_and_different_nodes(inline: Any) -> None:
    for workers, node_ids in (([], ["net"]), ([inline], []), ([inline], ["net", "net"])):
        with pytest.raises(ValueError, match="needs workers and a chain of different nodes"):
            soma.DataParallel(workers, node_ids)


def test_states_are_averaged_by_weight_counters_and_all() -> None:
    one = {"w": torch.tensor([0.0, 4.0]), "seen": torch.tensor(10), "on": torch.tensor(True)}
    two = {"w": torch.tensor([4.0, 0.0]), "seen": torch.tensor(21), "on": torch.tensor(True)}
    mean = loaded(soma.average_states([saved(one), saved(two)], [3, 1]))
    assert mean["w"].tolist() == [1.0, 3.0]
    assert mean["seen"].tolist() == 13
    assert mean["seen"].dtype is torch.int64
    assert mean["on"].item() is True


@pytest.mark.parametrize(
    ("states", "weights", "complaint"),
    [
        ([], None, "a weight from 0 on for each state"),
        ([{"w": [1.0]}], [1, 2], "1 states and the weights"),
        ([{"w": [1.0]}], [0], "a sum above 0"),
        ([{"w": [1.0]}, {"v": [1.0]}], None, "state 1 does not have the names and shapes"),
        ([{"w": [1.0]}, {"w": [1.0, 2.0]}], None, "state 1 does not have the names and shapes"),
    ],
)
def test_states_that_do_not_fit_together_are_not_averaged(
    states: Any, weights: Any, complaint: str
) -> None:
    written = [saved({k: torch.tensor(v) for k, v in state.items()}) for state in states]
    with pytest.raises(ValueError, match=complaint):
        soma.average_states(written, weights)
