"""Training in a worker equals training with plain PyTorch in this process, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ..support.filters import loaded

torch = pytest.importorskip("torch")
sklearn_preprocessing = pytest.importorskip("sklearn.preprocessing")

STEPS = 7
BODY = ("torch.MLP", {"sizes": [5, 8, 4], "seed": 1, "lr": 0.01})
HEAD = ("torch.MLP", {"sizes": [4, 1], "seed": 2, "lr": 0.02})
SCALER = ("sklearn.StandardScaler", {})


def body() -> Any:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))


def head() -> Any:
    torch.manual_seed(2)
    return torch.nn.Sequential(torch.nn.Linear(4, 1))


class AtHome:
    """The same chain in plain PyTorch, one optimizer for each part."""

    def __init__(self) -> None:
        self.parts = {"body": body(), "head": head()}
        self.optimizers = [
            torch.optim.Adam(self.parts["body"].parameters(), lr=0.01),
            torch.optim.Adam(self.parts["head"].parameters(), lr=0.02),
        ]

    def parameters(self) -> list[Any]:
        return [parameter for part in self.parts.values() for parameter in part.parameters()]

    def step(self, x: Any, y: Any) -> float:
        x, y = torch.as_tensor(x), torch.as_tensor(y)
        loss = torch.nn.functional.mse_loss(self.parts["head"](self.parts["body"](x)), y)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.item()


def assert_equal_to_the_last_bit(worker: Any, home: AtHome) -> None:
    for node_id, part in home.parts.items():
        there = loaded(worker.get_state(node_id, format="torch").data)
        here = part.state_dict()
        assert there.keys() == here.keys()
        assert all(torch.equal(there[name], here[name]) for name in here)


def test_steps_over_a_chain_of_torch_filters(worker: Any, data: Any) -> None:
    worker.load({"body": BODY, "head": HEAD})
    home = AtHome()
    losses = [worker.composite_fit(["body", "head"], *data).loss for _ in range(STEPS)]
    assert losses == [home.step(*data) for _ in range(STEPS)]
    assert_equal_to_the_last_bit(worker, home)


def test_steps_over_a_scaler_and_torch_filters(worker: Any, data: Any) -> None:
    worker.load({"scaler": SCALER, "body": BODY, "head": HEAD})
    x, y = data
    home, scaled = AtHome(), sklearn_preprocessing.StandardScaler().fit_transform(x)
    losses = [worker.composite_fit(["scaler", "body", "head"], x, y).loss for _ in range(STEPS)]
    assert losses == [home.step(scaled.astype("f4"), y) for _ in range(STEPS)]
    assert_equal_to_the_last_bit(worker, home)


def test_batches_over_epochs(worker: Any, data: Any) -> None:
    worker.load({"body": BODY, "head": HEAD})
    home = AtHome()
    x, y = data
    told = worker.batched_fit(["body", "head"], x, y, batch_size=16, epochs=3)
    losses = []
    for _ in range(3):
        cuts = [slice(start, start + 16) for start in range(0, len(x), 16)]
        sums = [len(x[cut]) * home.step(x[cut], y[cut]) for cut in cuts]
        losses.append(sum(sums) / len(x))
    assert told.losses == losses
    assert_equal_to_the_last_bit(worker, home)


def test_shuffled_batches(worker: Any, data: Any) -> None:
    worker.load({"body": BODY, "head": HEAD})
    home = AtHome()
    x, y = data
    worker.batched_fit(["body", "head"], x, y, batch_size=16, epochs=2, shuffle=True, seed=4)
    draw = np.random.default_rng(4)
    for _ in range(2):
        order = draw.permutation(len(x))
        for start in range(0, len(x), 16):
            rows = order[start : start + 16]
            home.step(x[rows], y[rows])
    assert_equal_to_the_last_bit(worker, home)


def test_classes_and_cross_entropy(worker: Any, data: Any) -> None:
    config = {"sizes": [5, 8, 3], "seed": 3, "loss": "cross_entropy", "lr": 0.01}
    worker.load({"net": ("torch.MLP", config)})
    x = data[0]
    classes = np.arange(len(x)) % 3
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(torch.as_tensor(x)), torch.as_tensor(classes))
        loss.backward()
        optimizer.step()
        assert worker.composite_fit(["net"], x, classes).loss == loss.item()


@pytest.mark.parametrize(
    "named",
    [
        {"name": "Adam", "lr": 0.05, "betas": [0.8, 0.9]},
        {"name": "SGD", "lr": 0.05, "momentum": 0.9, "nesterov": True},
        {"name": "AdamW", "lr": 0.05, "weight_decay": 0.1},
    ],
    ids=lambda named: named["name"],
)
def test_one_optimizer_over_the_chain_whose_moments_live_on_between_commands(
    worker: Any, data: Any, named: Any
) -> None:
    worker.load({"body": BODY, "head": HEAD})
    home = AtHome()
    arguments = {key: value for key, value in named.items() if key != "name"}
    home.optimizers = [getattr(torch.optim, named["name"])(home.parameters(), **arguments)]
    x, y = data
    for _ in range(3):
        told = worker.composite_fit(["body", "head"], x, y, optimizer=named)
        assert told.loss == home.step(x, y)
    options = {"batch_size": 35, "epochs": 2, "optimizer": named}
    worker.batched_fit(["body", "head"], x, y, resume=True, **options)
    for _ in range(2):
        home.step(x[:35], y[:35])
        home.step(x[35:], y[35:])
    assert_equal_to_the_last_bit(worker, home)


def test_each_of_many_epochs_has_its_loss(worker: Any, data: Any) -> None:
    x, y = data[0][:4], data[1][:4]
    worker.load({"net": ("torch.MLP", {"sizes": [5, 1], "seed": 0})})
    told = worker.batched_fit(["net"], x, y, batch_size=4, epochs=300)
    assert [type(loss) for loss in told.losses] == [float] * 300
    assert told.losses[-1] < told.losses[0]
