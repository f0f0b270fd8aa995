"""Stepping: the optimizer of a network, the schedule of its rate, and the bounds of gradients."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from soma_core.execution import build_optimizer
from soma_filters_torch.spelling import arguments_of, unknown

_PER_BATCH = frozenset({"CyclicLR", "OneCycleLR"})
_OF_FUNCTIONS = frozenset({"LambdaLR", "MultiplicativeLR"})
_OF_SCHEDULERS = "SequentialLR"
_OF_LOSSES = "ReduceLROnPlateau"


@dataclass(frozen=True)
class Plan:
    """How a network is stepped, as configured.

    Attributes:
        optimizer: The optimizer's name and arguments, ``lr`` among them.
        schedules: The names and arguments of schedulers; ``every`` is ``"batch"`` or ``"epoch"``.
        clip_norm: The longest that all gradients together may be, in the Euclidean norm.
        clip_value: The largest that an element of a gradient may be.
    """

    optimizer: dict[str, Any]
    schedules: list[dict[str, Any]] = field(default_factory=list)
    clip_norm: float | None = None
    clip_value: float | None = None

    def over(self, module: nn.Module) -> Stepper | None:
        """What steps the parameters of a network; None if it has none to train.

        Raises:
            ValueError: The optimizer or a scheduler refuses its arguments.
        """
        parameters = list(module.parameters())
        trainable = any(parameter.requires_grad for parameter in parameters)
        return Stepper(self, parameters) if trainable else None


class Stepper:
    """An optimizer that clips gradients before each step, and schedulers that follow its steps.

    Both happen in the optimizer's own ``step``, whoever calls it.

    Attributes:
        optimizer: Steps the parameters.
        schedulers: Change its rate, in their order.
    """

    def __init__(self, plan: Plan, parameters: list[nn.Parameter]) -> None:
        self.optimizer = build_optimizer(plan.optimizer, parameters)
        built = [(_every(choice), _built(choice, self.optimizer)) for choice in plan.schedules]
        self.schedulers = [scheduler for _, scheduler in built]
        self._per_epoch = [scheduler for every, scheduler in built if every == "epoch"]
        per_batch = [scheduler for every, scheduler in built if every == "batch"]
        if plan.clip_norm is not None or plan.clip_value is not None:
            self.optimizer.register_step_pre_hook(lambda *_: _clip(plan, parameters))
        if per_batch:
            self.optimizer.register_step_post_hook(lambda *_: _step_all(per_batch))

    def end_epoch(self, loss: float) -> None:
        """Step the schedulers that count epochs."""
        for scheduler in self._per_epoch:
            if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
                scheduler.step(loss)
            else:
                scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Where the optimizer and the schedulers stand."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        for scheduler, saved in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)


def check_schedule(choice: dict[str, Any]) -> None:
    """Refuse what does not choose a scheduler.

    Raises:
        ValueError: ``torch.optim.lr_scheduler`` has none of that name that a configuration could
            choose, or it does not have these arguments; the message lists what there is.
    """
    found = _class(choice)
    every = _every(choice)
    if every not in ("batch", "epoch"):
        raise ValueError(f"a scheduler steps every 'batch' or every 'epoch'; got {every!r}")
    if every == "batch" and choice["name"] == _OF_LOSSES:
        raise ValueError(f"{_OF_LOSSES} follows the loss of an epoch; it cannot step every batch")
    known = list(inspect.signature(found).parameters)[1:]
    foreign = sorted(arguments_of(choice, "every").keys() - set(known))
    if foreign:
        raise ValueError(
            f"the scheduler {choice['name']} has no argument {', '.join(foreign)}; it has "
            f"{', '.join(known)}, and every: 'batch' or 'epoch'"
        )
    if choice["name"] in _OF_FUNCTIONS and not callable(choice.get("lr_lambda")):
        raise ValueError(
            f"the scheduler {choice['name']} needs lr_lambda, a function of the number of "
            f"the step; got {choice.get('lr_lambda')!r}"
        )
    for nested in _nested(choice):
        check_schedule(nested)
        if "every" in nested:
            raise ValueError(f"within a {_OF_SCHEDULERS}, schedulers step when it does: no every")


def _clip(plan: Plan, parameters: list[nn.Parameter]) -> None:
    if plan.clip_value is not None:
        nn.utils.clip_grad_value_(parameters, plan.clip_value)
    if plan.clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, plan.clip_norm)


def _step_all(schedulers: list[Any]) -> None:
    for scheduler in schedulers:
        scheduler.step()


def _every(choice: dict[str, Any]) -> str:
    default = "batch" if choice["name"] in _PER_BATCH else "epoch"
    every: str = choice.get("every", default)
    return every


def _nested(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if choice["name"] != _OF_SCHEDULERS:
        return
    for item in choice.get("schedulers", ()):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise ValueError(
                f'the schedulers of a {_OF_SCHEDULERS} are each {{"name": …, …}}; got {item!r}'
            )
        yield item


def _built(choice: dict[str, Any], optimizer: torch.optim.Optimizer) -> Any:
    arguments = arguments_of(choice, "every")
    nested = [_built(item, optimizer) for item in _nested(choice)]
    if nested:
        arguments["schedulers"] = nested
    try:
        return _class(choice)(optimizer, **arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the scheduler {choice['name']} refuses {arguments_of(choice, 'every')}: {error}"
        ) from error


def _class(choice: dict[str, Any]) -> Any:
    known = _classes()
    if choice["name"] not in known:
        raise ValueError(unknown("scheduler", choice["name"], known))
    return known[choice["name"]]


@cache
def _classes() -> dict[str, Any]:
    """The schedulers that arguments configure, by name."""
    return {
        name: found
        for name, found in vars(lr_scheduler).items()
        if isinstance(found, type)
        and issubclass(found, lr_scheduler.LRScheduler)
        and not name.startswith("_")
        and next(iter(inspect.signature(found).parameters)) == "optimizer"
        and found is not lr_scheduler.LRScheduler
    }
