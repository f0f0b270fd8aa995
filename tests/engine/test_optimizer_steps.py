"""The joint step leaves out torch's record of a step for the profiler, and nothing else of it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

X = np.linspace(-1, 1, 24, dtype="f4").reshape(8, 3)
Y = np.linspace(0, 1, 8, dtype="f4").reshape(8, 1)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, 1)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=0.1)

    def forward(self, x: Any, state: Any = None) -> Any:
        return self.linear(x)


def train(host: Any, net: Any) -> None:
    host.put(net=net)
    host.ask("COMPOSITE_FIT", node_ids=["net"], data=X, y=Y)


def test_hooks_of_an_optimizer_are_called_around_its_step(host: Any) -> None:
    net, told = Net(), []
    net.optimizer.register_step_pre_hook(lambda *_: told.append("before"))
    net.optimizer.register_step_post_hook(lambda *_: told.append("after"))
    train(host, net)
    assert told == ["before", "after"]


def test_a_hook_that_comes_between_two_steps_is_called_from_then_on(host: Any) -> None:
    net, told = Net(), []
    train(host, net)
    hook = net.optimizer.register_step_post_hook(lambda *_: told.append("after"))
    train(host, net)
    hook.remove()
    train(host, net)
    assert told == ["after"]


@pytest.mark.parametrize("when", ["pre", "post"])
def test_hooks_of_all_optimizers_are_called(host: Any, when: str) -> None:
    from torch.optim import optimizer

    told: list[Any] = []
    register = getattr(optimizer, f"register_optimizer_step_{when}_hook")
    hook = register(lambda *_: told.append(when))
    try:
        train(host, Net())
    finally:
        hook.remove()
    assert told == [when]


def test_a_profiler_that_runs_is_told_of_the_step(host: Any) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        train(host, Net())
    assert "Optimizer.step#Adam.step" in {event.key for event in profiler.key_averages()}


def test_a_scheduler_sees_that_its_optimizer_was_stepped(
    host: Any, recwarn: pytest.WarningsRecorder
) -> None:
    net = Net()
    scheduler = torch.optim.lr_scheduler.StepLR(net.optimizer, 1)
    train(host, net)
    scheduler.step()
    assert not [warning for warning in recwarn if "lr_scheduler.step" in str(warning.message)]


def test_a_step_that_somebody_put_around_that_of_a_class_is_called(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, told, own = Net(), [], torch.optim.Adam.step

    @functools.wraps(own)
    def around(*args: Any, **options: Any) -> Any:
        told.append("around")
        return own(*args, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", around)
    train(host, net)
    assert told == ["around"]


def test_an_optimizer_that_is_not_of_torch_is_asked_itself(host: Any) -> None:
    class Own:
        param_groups: tuple[Any, ...] = ()
        told: tuple[str, ...] = ()

        def zero_grad(self) -> None:
            self.told += ("zero_grad",)

    net = Net()
    net.optimizer = Own()
    net.optimizer.step = lambda: setattr(net.optimizer, "told", ("step",))
    train(host, net)
    assert net.optimizer.told == ("step", "zero_grad")


def test_without_the_insides_of_this_torch_optimizers_are_asked_themselves(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.optim import optimizer

    from soma_core.engine.training import tensors

    net, expected = Net(), Net()
    tensors._torch_optim.cache_clear()
    with monkeypatch.context() as changed:
        changed.delattr(optimizer, "_global_optimizer_pre_hooks")
        unknown = tensors._torch_optim()
    tensors._torch_optim.cache_clear()
    assert unknown.wrapper is None
    monkeypatch.setattr(tensors, "_torch_optim", lambda: unknown)
    train(host, net)
    monkeypatch.undo()
    train(host, expected)
    assert torch.equal(net.linear.weight, expected.linear.weight)


def test_a_parameter_that_is_exchanged_between_two_commands_is_trained(host: Any) -> None:
    net = Net()
    train(host, net)
    net.linear.weight = torch.nn.Parameter(torch.zeros(1, 3))
    net.linear.weight.grad = torch.full((1, 3), 1e9)
    net.optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    host.ask("COMPOSITE_FIT", node_ids=["net"], data=X, y=Y)
    assert 0 < net.linear.weight.abs().max() < 10
