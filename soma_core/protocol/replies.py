"""The replies: one model for each message that a worker may send."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from soma_core.errors import ErrorCode
from soma_core.models.filters import FilterMeta
from soma_core.protocol.commands import COMMANDS, Command, MessageId, StateFormat
from soma_core.protocol.fields import Binaries, Binary, Data, Number, Numbers, State, States
from soma_core.raised import Raised


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        defer_build=True,
        protected_namespaces=(),
    )


class Reply(_Model):
    """What every successful reply has in common."""

    tensors_as_lists: ClassVar[bool] = False
    """Whether torch tensors in it are nested lists in the lines dialect."""

    ok: Literal[True] = True
    id: MessageId | None = None
    """The id of the command."""
    meta: dict[str, Any] | None = None
    """What plugins of the worker say of the command and of themselves, by plugin."""
    profile_b64: Binary = None
    """With ``profile``: the statistics of Python's :mod:`cProfile`, written by :mod:`marshal`."""


class ErrorReply(_Model):
    """The reply to a message that failed, whatever it held."""

    ok: Literal[False] = False
    id: MessageId | None = None
    """The id of the command, if the message held a valid one."""
    meta: dict[str, Any] | None = None
    """What plugins of the worker say of the command, by plugin."""
    error: str
    """What came, what was expected and what to do; of a filter, the text of its exception."""
    code: Annotated[ErrorCode, Field(strict=False)]
    type: str | None = None
    """The class of the exception in the worker."""
    cmd: str | None = None
    node_id: str | None = None
    traceback: str | None = None
    """What Python would have printed of it."""
    exception: Raised | None = None
    """What else is known of the exception."""
    executed: Literal[True] | None = None
    """Given if the command was executed all the same, or a part of it: what nodes had learned is
    gone."""


class Versions(_Model):
    """The worker's versions."""

    soma: str
    python: str
    cloudpickle: str


class Limits(_Model):
    """The largest messages that the worker accepts, in bytes, and how deep they may nest."""

    line: int
    header: int
    nesting: int


class HelloReply(Reply):
    """What the worker is and can do."""

    protocol: int
    versions: Versions
    pid: int
    incarnation: str
    """Differs between any two engines."""
    commands: list[str]
    features: list[str]
    # Not default_factory=list, whose signature pydantic would parse at each start.
    codecs: list[str] = []
    """The codecs of plugins that the worker has: types that travel as typed values."""
    limits: Limits
    pickle: Literal["same-user", "never"]


class LoadReply(Reply):
    """What was loaded."""

    filters: dict[str, Annotated[FilterMeta, Field(strict=False)]]


class UnloadReply(Reply):
    """What was forgotten."""

    node_ids: list[str]


class NodeDetails(_Model):
    """What LIST says of a node beside its meta."""

    filter: str | None = None
    """The registered name that it was loaded by; null for an object."""
    trainable: bool
    """Whether the composite commands fit it."""
    learned: bool
    """Whether it has learned anything, or was given a state, since it was loaded."""


class ListReply(Reply):
    """What is loaded, and what could be."""

    nodes: dict[str, Annotated[FilterMeta, Field(strict=False)]]
    filters: list[str]
    """The registered names that LOAD accepts."""
    details: dict[str, NodeDetails] | None = None
    """More of each node."""


class _Learned(Reply):
    in_objects: list[str] | None = None
    """Nodes that learned inside of their objects, which the states do not tell: ``fit`` returned
    null or the object itself. GET_STATE fetches it."""


class FitReply(_Learned):
    """The state that the node learned; absent with ``return_state=false``."""

    result: State = None


class PartialFitReply(_Learned):
    """The state that the node learned."""

    result: State = None
    """Absent with ``return_state=false``."""
    loss: Number = None
    """The loss of a step of training by gradients; null if there was none."""


class ForwardReply(Reply):
    """The output."""

    result: Data = None


class CallMethodReply(Reply):
    """What the method returned."""

    result: Data = None


class CompositeForwardReply(Reply):
    """The output of the last node; torch tensors as nested lists in the lines dialect."""

    tensors_as_lists: ClassVar[bool] = True

    result: Data = None


class CompositeFitReply(_Learned):
    """The output before the training step, and what was learned."""

    tensors_as_lists: ClassVar[bool] = True

    result: Data = None
    states: Binaries = None
    """The ``state_dict`` of each node that has one of weights alone, in torch's format."""
    fit_states: States = None
    """What ``fit`` returned, of each node that was fitted."""
    loss: Number = None
    """The loss of the training step; null if there was none."""
    gradients: Binaries = None
    """With ``step=false``, by node, in torch's format: the gradient of each parameter by name, null
    where there is none, and the new value of each buffer, for APPLY_GRADIENTS."""


class BatchedFitReply(_Learned):
    """The output, and what was learned."""

    result: Data = None
    states: States = None
    """What ``fit`` returned last, of each node."""
    losses: Numbers
    """The mean loss of each epoch; empty if nothing was trained by gradients."""
    history: States = None
    """By name, a number for each epoch: ``loss``, ``validation_loss``, the metrics, and ``lr``, the
    rate of the first optimizer."""
    best_epoch: int | None = None
    """The epoch from 1 after which the nodes were best; with ``patience`` or ``restore_best``."""
    fit_id: str | None = None
    """The fit pauses here: what CONTINUE_FIT names. Absent once it has ended."""


class ContinueFitReply(BatchedFitReply):
    """As for BATCHED_FIT."""


class GetStateReply(Reply):
    """What the node's object holds, in the format named, and the state that it learned."""

    state_b64: Binary
    format: StateFormat
    fit_state: State = None
    training_b64: Binary = None
    """Optimizers, schedulers and random numbers; absent unless ``full`` was asked for."""
    config: Data = None
    """How a filter is configured; absent for other objects, and unless ``full`` was asked for."""


class SetStateReply(Reply):
    """The state is put back."""


class GetGradientsReply(Reply):
    """The gradients by parameter name, in torch's format."""

    gradients_b64: Binary


class ApplyGradientsReply(Reply):
    """The names of the parameters that received a gradient."""

    updated: list[str]


class InterruptReply(Reply):
    """INTERRUPT was read, whether or not the command still ran."""


class PingReply(Reply):
    """The process that answered."""

    pid: int
    incarnation: str


class ShutdownReply(Reply):
    """The worker exits after this."""


EventKind = Literal["progress", "log", "warning"]


class Event(_Model):
    """Sent before the reply: progress only to a command that said ``"events": true``, what filters
    log and warn only to a host that said ``log_level`` in HELLO."""

    event: EventKind
    id: MessageId | None = None
    """The id of the command that runs."""
    cmd: str
    data: Data
    """What the filter reported, logged or warned, an object."""


REPLIES: tuple[type[Reply], ...] = (
    HelloReply,
    LoadReply,
    UnloadReply,
    ListReply,
    FitReply,
    PartialFitReply,
    ForwardReply,
    CallMethodReply,
    CompositeForwardReply,
    CompositeFitReply,
    BatchedFitReply,
    ContinueFitReply,
    GetStateReply,
    SetStateReply,
    GetGradientsReply,
    ApplyGradientsReply,
    InterruptReply,
    PingReply,
    ShutdownReply,
)
"""The successful replies, in the order of the commands."""

REPLY_TO: dict[type[Command], type[Reply]] = dict(zip(COMMANDS, REPLIES, strict=True))
"""The reply to each command; that to one of a plugin has a result, as FORWARD's has."""
