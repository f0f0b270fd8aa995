"""Learner: one network with what steps it, its random numbers, and the states it has seen."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from soma_filters_torch.stepping import Plan


class Randomness:
    """A stream of torch's random numbers of its own, which goes on from block to block.

    Without a seed it is the process's stream; a CUDA device has random numbers of its own.
    """

    def __init__(self, seed: int | None, device: str | None = None) -> None:
        self._seed = seed
        self._cuda = device if device is not None and device.startswith("cuda") else None
        self._position: list[torch.Tensor] | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the block, torch draws from this stream; outside, nothing has happened."""
        if self._seed is None:
            yield
            return
        outside = self._torch_position()
        try:
            self._put(self._start(self._seed) if self._position is None else self._position)
            yield
            self._position = self._torch_position()
        finally:
            self._put(outside)

    @property
    def position(self) -> list[torch.Tensor] | None:
        """Where the stream stands, on the CPU and on the device.

        None before its first block, or without a seed.
        """
        return self._position

    @position.setter
    def position(self, position: list[torch.Tensor] | None) -> None:
        self._position = position

    def _start(self, seed: int) -> list[torch.Tensor]:
        devices = ["cpu"] if self._cuda is None else ["cpu", self._cuda]
        return [torch.Generator(device).manual_seed(seed).get_state() for device in devices]

    def _torch_position(self) -> list[torch.Tensor]:
        on_device = [] if self._cuda is None else [torch.cuda.get_rng_state(self._cuda)]
        return [torch.get_rng_state(), *on_device]

    def _put(self, position: list[torch.Tensor]) -> None:
        on_cpu, *on_device = position
        torch.set_rng_state(on_cpu)
        if self._cuda is not None and on_device:
            torch.cuda.set_rng_state(on_device[0], self._cuda)


class Learner:
    """A network and what trains it.

    A state that a host sends for one call does not touch the network: it goes into a copy,
    which is kept for the next call with the same state. Only training starts from it in place.

    Attributes:
        stepper: What steps its parameters; None if it has none to train.

    Raises:
        ValueError: The optimizer or a scheduler refuses its arguments.
    """

    def __init__(
        self,
        title: str,
        module: nn.Module,
        plan: Plan,
        randomness: Randomness,
    ) -> None:
        self.title = title
        self.module = module
        self.stepper = plan.over(module)
        self._plan = plan
        self.randomness = randomness
        self._own_state: Any = None
        self._guest: nn.Module | None = None
        self._guest_state: Any = None

    def snapshot(self) -> dict[str, Any]:
        """The parameters and buffers by name, as arrays of their own; the network's new state.

        Elements that numpy does not have, such as bfloat16, stay torch tensors.
        """
        state = {key: _detached(item) for key, item in self.module.state_dict().items()}
        self._own_state = state
        return state

    def module_for(self, state: Any, *, training: bool) -> nn.Module:
        """The network with a state: the network itself for its own state, or for an empty one.

        Args:
            state: What :meth:`snapshot` returned, here or elsewhere.
            training: Whether what follows changes the network, which then takes the state over.

        Raises:
            ValueError: The state does not fit the network, which is left as it was.
        """
        if state is None or state is self._own_state or (isinstance(state, dict) and not state):
            return self.module
        if training:
            self._load(self.module, state)
            self._own_state = state
            return self.module
        return self._guest_with(state)

    def __getstate__(self) -> dict[str, Any]:
        """Without the states of others, and with a stepper that is built anew: it has hooks."""
        stepped = None if self.stepper is None else self.stepper.state_dict()
        left_out = {"_own_state": None, "_guest": None, "_guest_state": None}
        return self.__dict__ | left_out | {"stepper": stepped}

    def __setstate__(self, content: dict[str, Any]) -> None:
        self.__dict__.update(content)
        self.stepper = self._plan.over(self.module)
        if self.stepper is not None:
            self.stepper.load_state_dict(content["stepper"])

    def _guest_with(self, state: Any) -> nn.Module:
        if self._guest is None:
            self._guest = copy.deepcopy(self.module)
        if state is not self._guest_state:
            self._load(self._guest, state)
            self._guest_state = state
        return self._guest

    def _load(self, module: nn.Module, state: Any) -> None:
        tensors = self._checked(state, module.state_dict())
        module.load_state_dict(tensors)

    def _checked(self, state: Any, wanted: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(state, dict):
            raise ValueError(
                f"a state of {self.title} is a dict of arrays, as fit returned it; "
                f"got {type(state).__name__}"
            )
        if state.keys() != wanted.keys():
            raise ValueError(
                f"the state does not fit {self.title}: missing {sorted(wanted.keys() - state)}, "
                f"unknown {sorted(state.keys() - wanted)}; its own names are {list(wanted)}"
            )
        tensors = {key: _tensor(item) for key, item in state.items()}
        for key, item in tensors.items():
            found, needed = _shape(item), _shape(wanted[key])
            if found != needed:
                raise ValueError(
                    f"the state does not fit {self.title}: {key} has shape {found}, "
                    f"the network needs {needed}"
                )
        return tensors


def _detached(item: Any) -> Any:
    if not isinstance(item, torch.Tensor):
        return copy.deepcopy(item)
    own = item.detach().cpu().clone()
    try:
        return own.numpy()
    except TypeError:
        return own


def _tensor(item: Any) -> Any:
    if isinstance(item, np.ndarray):
        return torch.as_tensor(item if item.flags.writeable else item.copy())
    if isinstance(item, list | int | float):
        return torch.as_tensor(item)
    return item


def _shape(item: Any) -> list[int]:
    return list(getattr(item, "shape", ()))
