"""Filters: ``torch.Module`` and ``torch.MLP``, networks that soma trains and runs."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from torch import nn

from soma_core import Filter, FilterKind, FilterMeta
from soma_core.execution import optimizer_class
from soma_filters_torch.building import (
    activation_class,
    build_module,
    check_modules,
    content_hash,
    copied,
    takes,
)
from soma_filters_torch.learner import Learner, Randomness
from soma_filters_torch.losses import check_loss, compute_loss
from soma_filters_torch.placing import AutocastType, ParameterType, Placement, check_device_name
from soma_filters_torch.rowwise import describes_rowwise, is_rowwise
from soma_filters_torch.spelling import Choice, FunctionChoice, Listed, passing
from soma_filters_torch.stepping import Plan, check_schedule
from soma_filters_torch.tensors import (
    from_output,
    named_parameters,
    numeric_type,
    to_input,
    to_target,
)
from soma_filters_torch.training import train

_placement_of = cache(Placement)  # a step asks for it twice, and a configuration is frozen


class TorchFilter(Filter):
    """What the filters over torch networks share: training, running, and states.

    The network is built when it is loaded, or first needed. It can be trained alone, by ``fit``,
    or with its neighbours in a composite, whose joint step runs ``forward`` with autograd enabled.

    A *choice* is a name, or a name and arguments: ``"Adam"``, ``{"name": "SGD", "momentum": 0.9}``.

    Attributes:
        loss: The choice of a function of ``torch.nn.functional``, short (``mse``, ``l1``,
            ``huber``, ``cross_entropy``, ``nll``, ``bce_with_logits``, …) or by its full name;
            or a function of an output and a target, which travels as a pickle.
        optimizer_spec: The choice of a class of ``torch.optim``; configured as ``optimizer``.
        lr: The optimizer's learning rate.
        scheduler: The choices of classes of ``torch.optim.lr_scheduler``: one, several or none.
            ``every: "batch"`` or ``"epoch"`` says when it steps.
        clip_norm: The longest that all gradients together may be, in the Euclidean norm.
        clip_value: The largest that an element of a gradient may be.
        epochs: How often ``fit`` goes through the data.
        batch_size: How many rows one step of ``fit`` sees.
        shuffle: Whether ``fit`` draws another order of rows for each epoch.
        seed: Makes the first parameters, the order of rows and dropout repeatable.
        device: Where the network runs: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None leaves it where
            it was built.
        dtype: The type of parameters and buffers; None leaves them as they were built.
        autocast: The type in which torch computes what it holds safe to.
        output: What ``forward`` returns when it does not train: the output itself, its softmax,
            or the index of its largest class. Classes are on axis 1, as the losses have them.
        output_device: Whether tensors come back to the CPU, or stay on the network's device for
            the next filter of a chain.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    title: ClassVar[str]
    takes_integers: ClassVar[bool] = True

    loss: Annotated[FunctionChoice, passing(check_loss)] = Field(default={"name": "mse"})
    optimizer_spec: Annotated[Choice, passing(optimizer_class)] = Field(
        default={"name": "Adam"}, alias="optimizer"
    )
    lr: float = Field(default=1e-3, gt=0)
    scheduler: Annotated[list[Annotated[Choice, passing(check_schedule)]], Listed] = Field(
        default_factory=list
    )
    clip_norm: float | None = Field(default=None, gt=0)
    clip_value: float | None = Field(default=None, gt=0)
    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=32, ge=1)
    shuffle: bool = True
    seed: int | None = Field(default=None, ge=0)
    device: Annotated[str, AfterValidator(check_device_name)] | None = None
    dtype: ParameterType | None = None
    autocast: AutocastType | None = None
    output: Literal["raw", "softmax", "argmax"] = "raw"
    output_device: Literal["cpu", "same"] = "cpu"
    _learner: Learner | None = PrivateAttr(default=None)
    _fresh: Learner | None = PrivateAttr(default=None)

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
        learner = self._take_fresh()
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
            x: The data: a tensor, an array or nested lists; or a dict of these by the names of
                the network's arguments.
            state: What ``fit`` returned; empty is what the network has learned so far. A state
                from elsewhere serves this call and leaves the network alone, unless it trains.

        Raises:
            ValueError: The data or the state do not fit the network.
        """
        if not torch.is_grad_enabled():
            out = self._finished(self.raw_output(x, state))
            return from_output(out, x, to_cpu=self.output_device == "cpu")
        self._placement.check_training()
        learner = self._current()
        module = learner.module_for(state, training=True)
        if not module.training:
            module.train()
        inputs = to_input(x, module, integers=self.takes_integers)
        if not self._draws():
            return self._run(module, inputs)
        with learner.randomness.active():
            return self._run(module, inputs)

    def raw_output(self, x: Any, state: Any) -> Any:
        """Run the network in the mode of evaluation, and return what it returns: a tensor.

        The engine computes the loss on validation data from it. Arguments and errors are those
        of :meth:`forward`.
        """
        module = self._current().module_for(state, training=False)
        if module.training:
            module.eval()
        return self._run(module, to_input(x, module, integers=self.takes_integers))

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

    def on_load(self) -> None:
        """Build the network, so that loading fails with what is wrong with it.

        Raises:
            ValueError: The device is not there, or the configuration describes no network.
        """
        self._placement.check()
        if self._learner is None:
            self._fresh = self._new_learner()

    def on_epoch_end(self, loss: float) -> None:
        """Step the schedulers that count epochs."""
        stepper = self._current().stepper
        if stepper is not None:
            stepper.end_epoch(loss)

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
            rowwise=self._is_rowwise(),
        )

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer of the network's parameters; None if it has none to train."""
        stepper = self._current().stepper
        return None if stepper is None else stepper.optimizer

    @property
    def schedulers(self) -> list[Any]:
        """The schedulers of the optimizer's rate."""
        stepper = self._current().stepper
        return [] if stepper is None else stepper.schedulers

    def parameters(self) -> Iterator[nn.Parameter]:
        """The network's parameters."""
        return self._current().module.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The network's parameters with their names."""
        return iter(named_parameters(self._current().module))

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
        copied._learner = copied._fresh = None
        return copied

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if "lr" in self.optimizer_spec and "lr" in self.model_fields_set:
            raise ValueError("lr is given twice: beside the optimizer and among its arguments")
        return self

    @property
    def _placement(self) -> Placement:
        return _placement_of(self.device, self.dtype, self.autocast)

    def _current(self) -> Learner:
        private = self.__pydantic_private__ or {}  # asked often, and pydantic's own way is slow
        learner: Learner | None = private.get("_learner")
        if learner is None:
            learner = self._learner = self._take_fresh()
        return learner

    def _take_fresh(self) -> Learner:
        """A network that nobody has used: the one that loading built, once."""
        fresh, self._fresh = self._fresh, None
        return fresh or self._new_learner()

    def _new_learner(self) -> Learner:
        self._placement.check()
        randomness = Randomness(self.seed, self.device)
        with randomness.active():
            module = self._placement.put(self.build())
        optimizer = {"lr": self.lr} | self.optimizer_spec
        plan = Plan(optimizer, self.scheduler, self.clip_norm, self.clip_value)
        return Learner(self.title, module, plan, randomness)

    def _train(self, learner: Learner, x: Any, y: Any, epochs: int) -> None:
        module, stepper = learner.module, learner.stepper
        if stepper is None:
            raise ValueError(f"{self.title} has no parameters to train")
        if y is None:
            raise ValueError(f"{self.title} learns from targets: pass y beside the data")
        self._placement.check_training()
        inputs = to_input(x, module, integers=self.takes_integers)
        targets = to_target(y, numeric_type(module)[1])

        def step(rows: Any, wanted: torch.Tensor) -> torch.Tensor:
            out = self._run(module, rows)
            loss = self.compute_loss(out[0] if isinstance(out, tuple) else out, wanted)
            stepper.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            stepper.optimizer.step()
            return loss

        module.train()
        with torch.enable_grad(), learner.randomness.active():
            train(
                inputs,
                targets,
                step,
                stepper.end_epoch,
                epochs=epochs,
                batch_size=self.batch_size,
                shuffle=self.shuffle,
            )
        stepper.optimizer.zero_grad()  # used up, as in a joint step

    def _is_rowwise(self) -> bool:
        """Whether each row of the output comes from the same row of the input alone."""
        return False

    def _draws(self) -> bool:
        """Whether the network may draw random numbers when it trains."""
        return True

    def _run(self, module: nn.Module, x: Any) -> Any:
        try:
            return self._placement.run(module, x)
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, IndexError) as error:
            given = x if isinstance(x, dict) else {"x": x}
            listed = ", ".join(
                f"{name} of shape {list(item.shape)} and type {item.dtype}"
                for name, item in given.items()
            )
            raise ValueError(f"{self.title} cannot run on {listed}: {error}") from error
        except TypeError as error:
            if isinstance(x, dict) or takes(module, x):
                raise
            raise ValueError(
                f"{self.title} gives {type(module).__name__} one input, and its forward takes "
                f"{inspect.signature(module.forward)}: send a dict of inputs by name"
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
    """Any ``nn.Module``, registered as ``torch.Module``.

    Attributes:
        module: The path of the class, such as ``"torch.nn.Linear"``, or a module itself. That
            is where each ``fit`` starts, and stays as it is: a copy of it is trained. For a host
            that may send no pickles, paths lead into ``torch.nn`` and into what the operator of
            the worker allowed.
        args: The positional arguments of the class. In them, and in ``kwargs``, modules are
            written as ``{"module": path, "args": […], "kwargs": {…}}``.
        kwargs: Its keyword arguments.
    """

    title: ClassVar[str] = "torch.Module"

    module: str | SkipJsonSchema[nn.Module]
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)

    def build(self) -> nn.Module:
        """A new instance of the class, or a copy of the module.

        Raises:
            ValueError: The path leads to no module class, or the arguments do not fit it.
        """
        if isinstance(self.module, nn.Module):
            return copied(self.module)
        return build_module(self.module, self.args, self.kwargs)

    def _is_rowwise(self) -> bool:
        if isinstance(self.module, nn.Module):
            return is_rowwise(self.module)
        return describes_rowwise(self.module, self.args, self.kwargs)

    def config_hash(self) -> str:
        """As for every filter; of a module that was given itself, all that it holds counts.

        Raises:
            TypeError: It holds an object whose content soma cannot hash.
        """
        if isinstance(self.module, str):
            return super().config_hash()
        named = self.model_copy(update={"module": content_hash(self.module)})
        return named.config_hash()

    @model_validator(mode="after")
    def _check_arguments(self) -> Self:
        if isinstance(self.module, str):
            check_modules(self.module, self.args, self.kwargs)
        elif self.args or self.kwargs:
            raise ValueError(
                "args and kwargs are for the path of a class; module is an object that exists"
            )
        return self


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
    activation: Annotated[str, passing(activation_class)] = "relu"
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

    def _draws(self) -> bool:
        return self.dropout > 0

    def _is_rowwise(self) -> bool:
        return True

    def _run(self, module: nn.Module, x: Any) -> Any:
        if isinstance(x, dict) or x.ndim == 0 or x.shape[-1] != self.sizes[0]:
            came = f"a {type(x).__name__}" if isinstance(x, dict) else f"{list(x.shape)}"
            raise ValueError(
                f"torch.MLP of sizes {self.sizes} takes x of shape [..., {self.sizes[0]}]; "
                f"got {came}"
            )
        return super()._run(module, x)
