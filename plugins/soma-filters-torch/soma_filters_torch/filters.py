"""Filters: ``torch.Module`` and ``torch.MLP``, networks that soma trains and runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, PrivateAttr, field_validator
from torch import nn

from soma_core import Filter, FilterKind, FilterMeta
from soma_filters_torch.building import (
    activation_class,
    build_module,
    build_optimizer,
    module_class,
    optimizer_class,
)
from soma_filters_torch.learner import Learner, Randomness
from soma_filters_torch.losses import compute_loss, loss_function
from soma_filters_torch.tensors import from_output, to_input, to_target
from soma_filters_torch.training import Schedule, train

__all__ = ["MLP", "TorchFilter", "TorchModule"]


class TorchFilter(Filter):
    """What the filters over torch networks share: training, running, and states.

    The network is built when it is first needed. It can be trained alone, by ``fit``, or with
    its neighbours in a composite, whose joint step runs ``forward`` with autograd enabled.

    Attributes:
        loss: What ``fit`` minimizes: ``mse``, ``l1``, ``huber``, ``cross_entropy``, ``nll``,
            ``bce_with_logits``, or the path of a function in ``torch.nn.functional``.
        optimizer_name: The class of ``torch.optim``; configured as ``optimizer``.
        lr: The optimizer's learning rate.
        optimizer_options: More arguments of the optimizer.
        epochs: How often ``fit`` goes through the data.
        batch_size: How many rows one step of ``fit`` sees.
        shuffle: Whether ``fit`` draws another order of rows for each epoch.
        seed: Makes the first parameters, the order of rows and dropout repeatable.
        output: What ``forward`` returns when it does not train: the output itself, its softmax,
            or the index of its largest class. Classes are on axis 1, as the losses have them.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    title: ClassVar[str]
    takes_integers: ClassVar[bool] = True

    loss: str = "mse"
    optimizer_name: str = Field(default="Adam", alias="optimizer")
    lr: float = Field(default=1e-3, gt=0)
    optimizer_options: dict[str, Any] = Field(default_factory=dict)
    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=32, ge=1)
    shuffle: bool = True
    seed: int | None = Field(default=None, ge=0)
    output: Literal["raw", "softmax", "argmax"] = "raw"
    _learner: Learner | None = PrivateAttr(default=None)

    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        """Train a new network, like scikit-learn's ``fit``: what was learned before is forgotten.

        Args:
            x: The data; its first axis is the rows.
            y: The targets of the rows.

        Returns:
            The parameters and buffers by name, as numpy arrays.

        Raises:
            ValueError: ``y`` is missing, or data, targets, network and loss do not fit together.
                The network is the one from before.
        """
        learner = self._new_learner()
        self._train(learner, x, y, self.epochs)
        self._learner = learner
        return learner.snapshot()

    def partial_fit(self, x: Any, y: Any = None, state: Any = None) -> dict[str, Any]:
        """Train the network further: one pass over the data.

        Args:
            x: The data; its first axis is the rows.
            y: The targets of the rows.
            state: Where to go on from; empty is what the network has learned so far.

        Returns:
            The new state.

        Raises:
            ValueError: As for :meth:`fit`, or the state does not fit the network.
        """
        learner = self._current()
        learner.module_for(state, training=True)
        self._train(learner, x, y, epochs=1)
        return learner.snapshot()

    def forward(self, x: Any, state: Any) -> Any:
        """Run the network.

        With autograd enabled this is a training step's forward: the network is in training mode
        and its raw output comes back as a tensor. Otherwise (under ``torch.no_grad()``, as the
        engine calls it) the output is what ``output`` says, in the kind that the input came in.

        Args:
            x: The data: a tensor, an array or nested lists.
            state: What ``fit`` returned; empty is what the network has learned so far. A state
                from elsewhere serves this call and leaves the network alone, unless it trains.

        Raises:
            ValueError: The data or the state do not fit the network.
        """
        training = torch.is_grad_enabled()
        learner = self._current()
        module = learner.module_for(state, training=training)
        if module.training is not training:
            module.train(training)
        inputs = to_input(x, module, integers=self.takes_integers)
        if not training:
            return from_output(self._finished(self._run(module, inputs)), x)
        if not self._draws():
            return self._run(module, inputs)
        with learner.randomness.active():
            return self._run(module, inputs)

    def compute_loss(self, out: Any, y: Any, *beside: Any) -> torch.Tensor:
        """The loss of an output; used by ``fit`` and by a composite's joint step.

        Args:
            out: What ``forward`` returned.
            y: The targets. They are never broadcast.
            beside: What the network returned beside its output; it does not count.

        Raises:
            ValueError: The target's shape does not fit the output's.
        """
        return compute_loss(self.loss, out, y)

    def meta(self) -> FilterMeta:
        """Differentiable and trainable; deterministic with a seed.

        Not cacheable, since what an empty state stands for changes as the network is trained.
        """
        return FilterMeta(
            name=self.title,
            kind=FilterKind.TRAINABLE,
            differentiable=True,
            cacheable=False,
            deterministic=self.seed is not None,
        )

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer of the network's parameters; None if it has none."""
        return self._current().optimizer

    def parameters(self) -> Iterator[nn.Parameter]:
        """The network's parameters."""
        return self._current().module.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The network's parameters with their names."""
        return self._current().module.named_parameters()

    def named_buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The network's buffers with their names, such as the statistics of a normalization."""
        return self._current().module.named_buffers()

    def state_dict(self) -> dict[str, Any]:
        """The network's parameters and buffers, as torch has them."""
        return self._current().module.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Put parameters and buffers that :meth:`state_dict` returned into the network."""
        return self._current().module.load_state_dict(state_dict)

    def training_state(self) -> dict[str, Any]:
        """What resuming needs beside parameters and optimizer: where the random numbers stand."""
        return {"randomness": self._current().randomness.position}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`training_state` returned."""
        self._current().randomness.position = state["randomness"]

    def build(self) -> nn.Module:
        """A new network, as configured.

        Raises:
            ValueError: The configuration does not describe one.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define build()")

    def __copy__(self) -> TorchFilter:
        """A filter of the same configuration that learns for itself."""
        copied = super().__copy__()
        copied._learner = None
        return copied

    @field_validator("loss")
    @classmethod
    def _check_loss(cls, name: str) -> str:
        loss_function(name)
        return name

    @field_validator("optimizer_name")
    @classmethod
    def _check_optimizer(cls, name: str) -> str:
        optimizer_class(name)
        return name

    def _current(self) -> Learner:
        private = self.__pydantic_private__ or {}  # asked often, and pydantic's own way is slow
        learner: Learner | None = private.get("_learner")
        if learner is None:
            learner = self._learner = self._new_learner()
        return learner

    def _new_learner(self) -> Learner:
        randomness = Randomness(self.seed)
        with randomness.active():
            module = self.build()
        optimizer = build_optimizer(self.optimizer_name, module, self.lr, self.optimizer_options)
        return Learner(self.title, module, optimizer, randomness)

    def _train(self, learner: Learner, x: Any, y: Any, epochs: int) -> None:
        module, optimizer = learner.module, learner.optimizer
        if optimizer is None:
            raise ValueError(f"{self.title} has no parameters to train")
        if y is None:
            raise ValueError(f"{self.title} learns from targets: pass y beside the data")
        inputs = to_input(x, module, integers=self.takes_integers)
        targets = to_target(y, inputs.device)

        def step(rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            out = self._run(module, rows)
            loss = self.compute_loss(out[0] if isinstance(out, tuple) else out, wanted)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            return loss

        module.train()
        with torch.enable_grad(), learner.randomness.active():
            train(inputs, targets, Schedule(epochs, self.batch_size, self.shuffle), step)

    def _draws(self) -> bool:
        """Whether the network may draw random numbers when it trains."""
        return True

    def _run(self, module: nn.Module, x: torch.Tensor) -> Any:
        try:
            return module(x)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(
                f"{self.title} cannot run on x of shape {list(x.shape)} and type {x.dtype}: {error}"
            ) from error

    def _finished(self, out: Any) -> Any:
        if self.output == "raw":
            return out
        if not isinstance(out, torch.Tensor):
            raise ValueError(
                f"output={self.output!r} needs a network that returns a tensor; "
                f"it returned a {type(out).__name__}"
            )
        axis = min(1, out.ndim - 1)
        return out.softmax(axis) if self.output == "softmax" else out.argmax(axis)


class TorchModule(TorchFilter):
    """Any ``nn.Module`` by its import path, registered as ``torch.Module``.

    Attributes:
        module: The path of the class, such as ``"torch.nn.Linear"``.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """

    title: ClassVar[str] = "torch.Module"

    module: str
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)

    def build(self) -> nn.Module:
        """A new instance of the class.

        Raises:
            ValueError: The path leads to no module class, or the arguments do not fit it.
        """
        return build_module(self.module, self.args, self.kwargs)

    def meta(self) -> FilterMeta:
        """As for every network; a path that leads nowhere is noticed here, when it is loaded."""
        module_class(self.module)
        return super().meta()


class MLP(TorchFilter):
    """Fully connected layers with an activation between them, registered as ``torch.MLP``.

    Attributes:
        sizes: The widths, from the input's to the output's: ``[64, 32, 10]``.
        activation: What stands between two layers, such as ``"relu"``.
        dropout: The share of hidden values that training leaves out.
    """

    title: ClassVar[str] = "torch.MLP"
    takes_integers: ClassVar[bool] = False

    sizes: list[Annotated[int, Field(ge=1)]] = Field(min_length=2)
    activation: str = "relu"
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self) -> nn.Module:
        """The layers, the last of them without an activation."""
        layers: list[nn.Module] = []
        for width, next_width in itertools.pairwise(self.sizes):
            layers += [nn.Linear(width, next_width), activation_class(self.activation)()]
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
        hidden_only = 2 if self.dropout else 1
        return nn.Sequential(*layers[:-hidden_only])

    @field_validator("activation")
    @classmethod
    def _check_activation(cls, name: str) -> str:
        activation_class(name)
        return name

    def _draws(self) -> bool:
        return self.dropout > 0

    def _run(self, module: nn.Module, x: torch.Tensor) -> Any:
        if x.ndim == 0 or x.shape[-1] != self.sizes[0]:
            raise ValueError(
                f"torch.MLP of sizes {self.sizes} takes x of shape [..., {self.sizes[0]}]; "
                f"got {list(x.shape)}"
            )
        return super()._run(module, x)
