"""The commands: one model for each message that a host may send."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from soma_core.models.files import DataFile
from soma_core.protocol.fields import Binary, Data, State, States
from soma_core.protocol.loggers import MOST_LOGGERS

MessageId = Annotated[int | str, Field(union_mode="left_to_right")]
NodeId = Annotated[str, Field(min_length=1)]
NodeIds = Annotated[list[NodeId], Field(min_length=1)]
Method = Literal[
    "decision_function", "inverse_transform", "predict", "predict_log_proba", "predict_proba",
    "score", "score_samples", "transform",
]  # fmt: skip
StateFormat = Literal["torch", "torch_pickle", "cloudpickle", "value", "safetensors"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


class Command(_Model):
    """What every command has in common."""

    if TYPE_CHECKING:
        cmd: str
        """Its name: each command has a field for the one that it has."""

    id: MessageId | None = None
    """Echoed in the reply."""
    events: bool = False
    """Whether progress and log events may be sent before the reply."""
    meta: dict[str, Any] | None = None
    """Open to the host; not interpreted."""
    profile: bool = False
    """Whether the reply brings a profile of the command."""
    encoding: Literal["b64"] | None = None
    """``b64``: arrays and bytes in the reply as base64, not as numbers; for lines."""
    log_levels: Annotated[dict[str, int], Field(max_length=MOST_LOGGERS)] | None = None
    """From now on, the least level of what a logger sends, by its name; the root's is ``""``. Of
    no effect without ``log_level`` in HELLO."""


class ClientInfo(_Model):
    """Who says HELLO, in versions."""

    model_config = ConfigDict(extra="ignore")

    name: str
    soma: str
    python: str
    cloudpickle: str


class Hello(Command):
    """Agree on versions and features before anything else. Optional.

    Fields of a later version are ignored: which version it is, is what both sides find out by it.
    """

    model_config = ConfigDict(extra="ignore")

    cmd: Literal["HELLO"] = Field()
    protocol: int
    client: ClientInfo
    codecs: list[str] | None = None
    """The codecs of plugins that the host has; without this the worker uses all that it has."""
    path: list[str] | None = None
    """Folders from which the host imports modules, for a worker that has the same folders: it looks
    there after all that it looks into by itself. Of no effect where pickles are refused."""
    argv: list[str] | None = None
    """The host's ``sys.argv``, which is that of the worker's filters, too. Of no effect where
    pickles are refused."""
    log_level: int | None = None
    """Have what filters log, from this level on, and what they warn sent as events."""
    interrupts: Literal["wire"] | None = None
    """``wire``: the host sends no signals, and INTERRUPT ends a command while it runs. Of no
    effect where the reply's ``features`` lack ``interrupts``."""


class FilterSpec(_Model):
    """One filter to load: a pickled object, or a registered filter by name."""

    id: NodeId
    pickle_b64: Binary = None
    """The object, pickled with cloudpickle."""
    filter: str | None = None
    """The registered name: ``sklearn.PCA``."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The configuration of the registered filter, validated by it."""
    trainable: bool = True
    """Whether COMPOSITE_FIT and BATCHED_FIT fit this node."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.pickle_b64 is None) == (self.filter is None):
            raise ValueError("exactly one of pickle_b64 and filter is needed")
        if self.config and self.filter is None:
            raise ValueError("config goes with filter; a pickled object brings its own")
        return self


class Load(Command):
    """Load filters under ids; all of them or, if one fails, none."""

    cmd: Literal["LOAD"] = Field()
    filters: list[FilterSpec]

    @model_validator(mode="after")
    def _distinct_ids(self) -> Self:
        ids = [spec.id for spec in self.filters]
        twice = sorted({node_id for node_id in ids if ids.count(node_id) > 1})
        if twice:
            raise ValueError(f"each id may be loaded once in a command; repeated: {twice}")
        return self


class Unload(Command):
    """Forget nodes and what they learned."""

    cmd: Literal["UNLOAD"] = Field()
    node_ids: NodeIds


class ListNodes(Command):
    """List the loaded nodes and the registered filters."""

    cmd: Literal["LIST"] = Field()


class Fit(Command):
    """Fit one node; what it learned becomes its state."""

    cmd: Literal["FIT"] = Field()
    node_id: NodeId
    data: Data = None
    y: Data = None
    return_state: bool = True
    """Whether the reply carries the state."""


class PartialFit(Command):
    """Let one node go on from what it learned, on one batch."""

    cmd: Literal["PARTIAL_FIT"] = Field()
    node_id: NodeId
    data: Data = None
    y: Data = None
    return_state: bool = True
    """Whether the reply carries the state."""


class Forward(Command):
    """Run one node."""

    cmd: Literal["FORWARD"] = Field()
    node_id: NodeId
    data: Data = None
    state: State = None
    """Omitted: the state that the node learned last. ``null``: None."""


class CallMethod(Command):
    """Call a method of one node by its name; refused by name where the filter has none.

    ``score`` is called with ``x, y, state``, the others with ``x, state``.
    """

    cmd: Literal["CALL_METHOD"] = Field()
    node_id: NodeId
    method: Method
    data: Data = None
    y: Data = None
    """The targets, for ``score``."""
    state: State = None
    """Omitted: the state that the node learned last. ``null``: None."""


class CompositeForward(Command):
    """Run a chain of nodes, the output of each being the input of the next."""

    cmd: Literal["COMPOSITE_FORWARD"] = Field()
    node_ids: NodeIds
    data: Data = None
    states: States = None
    """States by node id; a node that is not named uses the one that it learned last."""
    evolve: bool = False
    """Whether Evolving nodes learn from the data, by ``partial_fit``, before they run."""


class CompositeFit(Command):
    """Fit a chain of nodes, and train its differentiable nodes together."""

    cmd: Literal["COMPOSITE_FIT"] = Field()
    node_ids: NodeIds
    data: Data = None
    y: Data = None
    return_states: bool = True
    """Whether the reply carries the states."""
    optimizer: dict[str, Any] | None = None
    """A class of ``torch.optim`` by ``name``, with its arguments, for the whole chain."""
    step: bool = True
    """False: nothing is fitted or stepped; the reply carries gradients instead of the output."""


class BatchedFit(Command):
    """Fit a chain of nodes batch by batch."""

    cmd: Literal["BATCHED_FIT"] = Field()
    node_ids: NodeIds
    data: Data = None
    y: Data = None
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows per batch; the last batch may be shorter."""
    epochs: Annotated[int, Field(ge=1)] = 1
    """How often the data is gone through."""
    shuffle: bool = False
    """Whether the rows are drawn in another order in each epoch."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Makes the order of a shuffle repeatable."""
    collect: Literal["last", "all"] = "last"
    """The output of the last batch, or those of all rows in the order sent."""
    return_states: bool = True
    """Whether the reply carries the states."""
    optimizer: dict[str, Any] | None = None
    """A class of ``torch.optim`` by ``name``, with its arguments, for the whole chain."""
    resume: bool | None = None
    """Whether nodes go on from what they learned; false: all begin anew; null: networks go on and
    others begin anew, as in the original."""
    validation_data: Data = None
    """What the chain is measured on after each epoch, without learning from it."""
    validation_y: Data = None
    """The targets of ``validation_data``."""
    metrics: States = None
    """What is measured beside the loss, by name: names of scorers of scikit-learn, or functions
    of targets and outputs."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many epochs without a better one."""
    restore_best: bool = False
    """Whether the nodes are put back in the end as they were after the best epoch."""
    files: dict[Literal["data", "y", "validation_data", "validation_y"], DataFile] | None = None
    """Data that the worker reads from files, in place of the fields of these names."""
    pause: Literal["never", "epoch", "chunk"] = "never"
    """When the reply comes before the fit has ended: after each epoch, or after each chunk, of
    which ``data`` and ``y`` are the first. CONTINUE_FIT goes on."""


class ContinueFit(Command):
    """Let a BATCHED_FIT go on that paused."""

    cmd: Literal["CONTINUE_FIT"] = Field()
    fit_id: str
    """The ``fit_id`` of its last reply."""
    node_ids: NodeIds
    """The nodes that are fitted."""
    data: Data = None
    """The next chunk."""
    y: Data = None
    """Its targets."""
    end_epoch: bool = False
    """No chunk follows in this epoch; with this, the command brings none."""
    stop: bool = False
    """End the fit now, as if this had been its last epoch."""


class GetState(Command):
    """Fetch what a node's object holds, and the state that it learned."""

    cmd: Literal["GET_STATE"] = Field()
    node_id: NodeId
    format: StateFormat | None = None
    """Omitted: ``torch`` for a module, ``torch_pickle`` if it holds more than weights; for others
    ``cloudpickle``, or ``value`` without pickle."""
    full: bool = False
    """Whether the reply carries what training needs to go on, too."""


class SetState(Command):
    """Put back what GET_STATE returned."""

    cmd: Literal["SET_STATE"] = Field()
    node_id: NodeId
    state_b64: Binary = None
    """Omitted: the object stays as it is."""
    format: StateFormat | None = None
    """As for GET_STATE."""
    fit_state: State = None
    """Omitted: the learned state stays as it is."""
    training_b64: Binary = None
    """What GET_STATE returned with ``full``; omitted: optimizers stay as they are."""

    @model_validator(mode="after")
    def _something_to_set(self) -> Self:
        if not {"state_b64", "fit_state"} & self.model_fields_set:
            raise ValueError("at least one of state_b64 and fit_state is needed")
        return self


class GetGradients(Command):
    """Fetch the gradients of a node's parameters by name."""

    cmd: Literal["GET_GRADIENTS"] = Field()
    node_id: NodeId


class ApplyGradients(Command):
    """Set the gradients of a node's parameters, and step its optimizer if it has one.

    A parameter may have null for a gradient; a value under the name of a buffer becomes its own.
    """

    cmd: Literal["APPLY_GRADIENTS"] = Field()
    node_id: NodeId
    gradients_b64: Binary
    optimizer: dict[str, Any] | None = None
    """As for COMPOSITE_FIT: steps this node instead of its own optimizer."""


class Interrupt(Command):
    """End the command that runs, for a host that said ``interrupts`` in HELLO.

    The reply to that command has the code ``interrupted``. INTERRUPT does nothing once it is over.
    The reply to INTERRUPT comes in its turn, after that of the command.
    """

    cmd: Literal["INTERRUPT"] = Field()
    command: MessageId
    """The ``id`` of the command to end."""


class Ping(Command):
    """Ask whether the engine answers."""

    cmd: Literal["PING"] = Field()


class Shutdown(Command):
    """Answer, then exit with status 0."""

    cmd: Literal["SHUTDOWN"] = Field()


COMMANDS: tuple[type[Command], ...] = (
    Hello,
    Load,
    Unload,
    ListNodes,
    Fit,
    PartialFit,
    Forward,
    CallMethod,
    CompositeForward,
    CompositeFit,
    BatchedFit,
    ContinueFit,
    GetState,
    SetState,
    GetGradients,
    ApplyGradients,
    Interrupt,
    Ping,
    Shutdown,
)
"""Every command of the protocol, in the order of its reference."""
