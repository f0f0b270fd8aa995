"""What a Worker's methods return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, NamedTuple

from soma_core.models.brief import brief
from soma_core.models.filters import FilterMeta
from soma_core.protocol.commands import StateFormat


class Pong(NamedTuple):
    """Which process answered.

    Attributes:
        pid: Its process id.
        incarnation: Differs between any two engines.
    """

    pid: int
    incarnation: str


class WorkerStatus(NamedTuple):
    """What the host knows of a worker without a command.

    Attributes:
        alive: Whether it can be used.
        pid: Its process.
        incarnation: Differs between any two engines.
        command: The command that runs, or None.
        node_id: The node that it runs on, or None.
        seconds: How long it has been running.
        restarts: How often the worker was restarted after a death.
        cpu_seconds: The processor time that its process has used; None where it is not on this
            machine, or is gone.
        memory_bytes: The memory that its process holds (resident set); None likewise.
        plugins: What plugins of the worker reported last, by plugin, such as the hits of a cache.
    """

    alive: bool
    pid: int
    incarnation: str
    command: str | None
    node_id: str | None
    seconds: float
    restarts: int
    cpu_seconds: float | None
    memory_bytes: int | None
    plugins: Mapping[str, Any] = MappingProxyType({})


class NodeListing(NamedTuple):
    """What a worker says of one of its nodes.

    Attributes:
        meta: What is known of its filter.
        filter: The registered name that it was loaded by; None for an object.
        trainable: Whether the composite commands fit it.
        learned: Whether it has learned anything, or was given a state, since it was loaded.
    """

    meta: FilterMeta
    filter: str | None
    trainable: bool
    learned: bool


class WorkerListing(NamedTuple):
    """What a worker holds, and what it can do.

    Attributes:
        nodes: Its nodes by id, whoever loaded them.
        filters: The registered names that can be loaded there.
        versions: Its versions of soma, Python and cloudpickle.
        codecs: The codecs of plugins that both sides have.
        features: What it can do.
    """

    nodes: dict[str, NodeListing]
    filters: list[str]
    versions: dict[str, str]
    codecs: list[str]
    features: list[str]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={brief(value)}" for name, value in self._asdict().items())
        return f"WorkerListing({shown})"


@dataclass(frozen=True)
class NodeState:
    """What a node's object holds, and what the node learned.

    Attributes:
        data: The object's state, as bytes; None leaves the object as it is.
        format: How it is written: ``torch``, ``torch_pickle``, ``cloudpickle``, ``value`` or
            ``safetensors``.
        fit_state: The state that ``fit`` returned last.
        training: Optimizers, schedulers and random numbers, as bytes; None unless asked for.
        config: How a :class:`~soma_core.Filter` is configured, as JSON; None for other objects,
            and unless asked for.
    """

    data: bytes | None
    format: StateFormat
    fit_state: Any = None
    training: bytes | None = None
    config: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        return _short(self)


@dataclass(frozen=True)
class CompositeFitResult:
    """What COMPOSITE_FIT returned.

    Attributes:
        result: The output of the chain, before the training step.
        states: The ``state_dict`` of each node that has one of weights alone, in torch's format.
        fit_states: What ``fit`` returned, of each node that was fitted.
        loss: The loss of the training step; None if there was none.
    """

    result: Any
    states: dict[str, bytes]
    fit_states: dict[str, Any]
    loss: float | None

    def __repr__(self) -> str:
        return _short(self)


@dataclass(frozen=True)
class BatchedFitResult:
    """What BATCHED_FIT returned.

    Attributes:
        result: The output of the last batch, or of all rows with ``collect="all"``.
        states: What ``fit`` returned last, of each node.
        losses: The mean loss of each epoch; empty if nothing was trained by gradients.
        history: By name, a number for each epoch: ``loss``, ``validation_loss``, the metrics, and
            ``lr``, the rate of the first optimizer.
        best_epoch: The epoch from 1 after which the chain was best; None unless ``patience`` or
            ``restore_best`` asked for it.
    """

    result: Any
    states: dict[str, Any]
    losses: list[float]
    history: dict[str, list[float]]
    best_epoch: int | None = None

    def __repr__(self) -> str:
        return _short(self)


def _short(result: Any) -> str:
    """A result with what is large in it in a few words: it may be the last line of a cell."""
    held = ", ".join(
        f"{field.name}={brief(getattr(result, field.name))}" for field in fields(result)
    )
    return f"{type(result).__name__}({held})"
