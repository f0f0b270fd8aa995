"""Clipping and schedules are torch's own, in fit, in joint steps, and after a pause."""

from __future__ import annotations

import cloudpickle
import numpy as np
import pytest
import torch
from soma_filters_torch.filters import MLP
from torch import nn
from torch.optim import lr_scheduler

import soma_core as soma


def tenth_from_the_third(step):
    return 0.1 if step > 1 else 1.0


CONFIG = {"sizes": [4, 2], "seed": 3, "optimizer": {"name": "SGD", "momentum": 0.9}, "lr": 0.5}
CLIPPED = {"clip_norm": 0.1, "clip_value": 0.05}
SCHEDULES = [
    {"name": "StepLR", "step_size": 2},
    {"name": "MultiStepLR", "milestones": [1, 3]},
    {"name": "ConstantLR", "total_iters": 3},
    {"name": "LinearLR", "every": "batch"},
    {"name": "ExponentialLR", "gamma": 0.9},
    {"name": "LambdaLR", "lr_lambda": tenth_from_the_third},
    {"name": "MultiplicativeLR", "lr_lambda": tenth_from_the_third, "every": "batch"},
    {"name": "PolynomialLR"},
    {"name": "CosineAnnealingLR", "T_max": 5, "every": "batch"},
    {"name": "CosineAnnealingWarmRestarts", "T_0": 3},
    {"name": "ReduceLROnPlateau", "patience": 0, "threshold": 0.9},
    {"name": "CyclicLR", "base_lr": 0.1, "max_lr": 0.5, "step_size_up": 3},
    {"name": "OneCycleLR", "max_lr": 0.5, "total_steps": 100},
    {
        "name": "SequentialLR",
        "schedulers": [{"name": "ConstantLR"}, {"name": "MultiStepLR", "milestones": [1, 2]}],
        "milestones": [2],
    },
]


class ByHand:
    """The oracle: a linear network, trained as tutorials show it."""

    def __init__(self, data, scheduler=None, every="epoch", clip=lambda parameters: None):
        torch.manual_seed(3)
        self.net = nn.Linear(4, 2)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.5, momentum=0.9)
        self.scheduler = scheduler(self.optimizer) if scheduler else None
        self.every, self.clip = every, clip
        self.x, self.y = torch.tensor(data.x), torch.tensor(data.y)

    def epoch(self, *, shuffle=True):
        rows = len(self.x)
        order = torch.randperm(rows) if shuffle else torch.arange(rows)
        for piece in order.split(16):
            self.optimizer.zero_grad()
            nn.functional.mse_loss(self.net(self.x[piece]), self.y[piece]).backward()
            self.clip(self.net.parameters())
            self.optimizer.step()
            if self.scheduler and self.every == "batch":
                self.scheduler.step()
        if self.scheduler and self.every == "epoch":
            self.scheduler.step()

    def weight(self):
        return self.net.weight.detach().numpy()


def one_cycle(optimizer):
    return lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=20)


def halved_each_epoch(optimizer):
    return lr_scheduler.ExponentialLR(optimizer, 0.5)


@pytest.mark.parametrize(
    ("config", "clip"),
    [
        ({"clip_norm": 0.1}, lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.1)),
        ({"clip_value": 0.05}, lambda parameters: nn.utils.clip_grad_value_(parameters, 0.05)),
    ],
)
def test_gradients_are_clipped_before_each_step(config, clip, data):
    oracle = ByHand(data, clip=clip)
    for _ in range(2):
        oracle.epoch()
    state = MLP(**CONFIG, **config, batch_size=16, epochs=2).fit(data.x, data.y)
    np.testing.assert_array_equal(state["0.weight"], oracle.weight())
    unclipped = MLP(**CONFIG, batch_size=16, epochs=2).fit(data.x, data.y)
    assert not np.array_equal(state["0.weight"], unclipped["0.weight"])


@pytest.mark.parametrize(
    ("choice", "scheduler", "every"),
    [
        ({"name": "OneCycleLR", "max_lr": 0.5, "total_steps": 20}, one_cycle, "batch"),
        ({"name": "ExponentialLR", "gamma": 0.5}, halved_each_epoch, "epoch"),
    ],
)
def test_a_scheduler_steps_after_each_batch_or_epoch_of_fit(choice, scheduler, every, data):
    oracle = ByHand(data, scheduler, every)
    for _ in range(3):
        oracle.epoch()
    state = MLP(**CONFIG, scheduler=choice, batch_size=16, epochs=3).fit(data.x, data.y)
    np.testing.assert_array_equal(state["0.weight"], oracle.weight())


@pytest.mark.parametrize(
    ("choice", "scheduler", "every"),
    [
        ({"name": "OneCycleLR", "max_lr": 0.5, "total_steps": 20}, one_cycle, "batch"),
        ({"name": "ExponentialLR", "gamma": 0.5}, halved_each_epoch, "epoch"),
    ],
)
def test_joint_steps_are_clipped_and_scheduled_as_those_of_fit(choice, scheduler, every, data):
    oracle = ByHand(data, scheduler, every, lambda p: nn.utils.clip_grad_norm_(p, 0.1))
    for _ in range(3):
        oracle.epoch(shuffle=False)
    node = MLP(**CONFIG, scheduler=choice, clip_norm=0.1)
    with soma.connect("inline", filters={"net": node}) as worker:
        worker.batched_fit(["net"], data.x, data.y, batch_size=16, epochs=3)
        found = worker.get_state("net", format="safetensors")
        other = MLP(**CONFIG)
        worker.load({"other": other})
        worker.set_state("other", found)
        np.testing.assert_array_equal(
            worker.forward("other", data.x), oracle.net(oracle.x).detach().numpy()
        )


def test_the_optimizer_of_a_command_takes_the_place_of_schedule_and_clipping(data):
    plain = MLP(sizes=[4, 2], seed=3)
    node = MLP(**CONFIG, **CLIPPED, scheduler={"name": "ExponentialLR", "gamma": 0.5})
    sgd = {"name": "SGD", "lr": 0.1}
    with soma.connect("inline", filters={"plain": plain, "node": node}) as worker:
        results = [
            worker.batched_fit([name], data.x, data.y, epochs=2, optimizer=sgd).losses
            for name in ("plain", "node")
        ]
    assert results[0] == results[1]


def test_a_plateau_of_the_loss_lowers_the_rate(data):
    plateau = {"name": "ReduceLROnPlateau", "patience": 0, "factor": 0.1, "threshold": 0.9}
    node = MLP(**CONFIG, scheduler=plateau, epochs=3)
    node.fit(data.x, data.y)
    assert node.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


def test_several_schedulers_follow_one_another(data):
    halves = {"name": "ExponentialLR", "gamma": 0.5}
    node = MLP(**CONFIG, scheduler=[halves, halves | {"every": "batch"}], epochs=2, batch_size=50)
    node.fit(data.x, data.y)
    assert node.optimizer.param_groups[0]["lr"] == 0.5 * 0.5**4


@pytest.mark.parametrize("choice", SCHEDULES, ids=lambda choice: choice["name"])
def test_training_goes_on_after_a_pause_as_if_there_were_none(choice, data):
    config = CONFIG | CLIPPED | {"scheduler": choice, "optimizer": "Adam", "lr": 0.1}
    filters = {"net": MLP(**config)}

    def losses(worker, *, resume=True):
        fitted = worker.batched_fit(["net"], data.x, data.y, batch_size=16, epochs=3, resume=resume)
        return fitted.losses

    with soma.connect("inline", filters=filters) as worker:
        losses(worker, resume=False)
        state = worker.get_state("net", full=True)
        uninterrupted = losses(worker)
        worker.load(filters)
        worker.set_state("net", state)
        assert losses(worker) == uninterrupted


@pytest.mark.parametrize("choice", [SCHEDULES[0], SCHEDULES[-1]], ids=lambda item: item["name"])
def test_a_pickled_filter_goes_on_with_its_schedule_and_clipping(choice, data):
    node = MLP(**CONFIG, **CLIPPED, scheduler=choice)
    node.fit(data.x, data.y)
    read = cloudpickle.loads(cloudpickle.dumps(node))
    for _ in range(3):
        here = node.partial_fit(data.x, data.y, {})
        there = read.partial_fit(data.x, data.y, {})
    np.testing.assert_array_equal(there["0.weight"], here["0.weight"])


def test_arguments_of_a_loss_reach_torch(data):
    out, y = torch.tensor([[0.1, 0.2], [0.3, -0.1]]), torch.tensor([0, 1])
    loss = {"name": "cross_entropy", "weight": [0.2, 0.8], "label_smoothing": 0.1}
    found = MLP(sizes=[4, 2], loss=loss).compute_loss(out, y)
    weight = torch.tensor([0.2, 0.8])
    wanted = nn.functional.cross_entropy(out, y, weight=weight, label_smoothing=0.1)
    assert torch.equal(found, wanted)


def half_of_the_squared_error(out, y):
    return 0.5 * nn.functional.mse_loss(out, y)


def test_any_function_of_output_and_target_is_a_loss_in_fit_and_in_joint_steps(data):
    halved = MLP(**CONFIG, loss=half_of_the_squared_error)
    named = MLP(**{**CONFIG, "lr": 0.25}, loss="mse")
    with soma.connect("inline", filters={"halved": halved, "named": named}) as worker:
        ours, theirs = (worker.fit(node, data.x, data.y) for node in ("halved", "named"))
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
        losses = [worker.composite_fit([node], data.x, data.y).loss for node in ("halved", "named")]
    assert losses[0] == losses[1] / 2


def test_a_class_that_the_network_does_not_have_is_an_error_that_says_so():
    node = MLP(sizes=[4, 2], loss="cross_entropy")
    with pytest.raises(ValueError, match=r"output of shape \[1, 2\].*Target 5 is out of bounds"):
        node.compute_loss(torch.zeros(1, 2), [5])
