"""Filter: the unit of work, with its metadata and the hash of its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer
from pydantic.dataclasses import dataclass

from soma_core.models.brief import Brief
from soma_core.models.fingerprint import fields_of, fingerprint
from soma_core.models.frozen import NO_EXTRA, Frozen
from soma_core.models.schema import Schema


class FilterKind(StrEnum):
    """Whether a filter learns.

    ``Opaque``: it does, and where soma cannot know: an object that is no :class:`Filter` may learn
    in the state that its ``fit`` returns, or inside of itself.
    """

    STATELESS = "Stateless"
    TRAINABLE = "Trainable"
    OPAQUE = "Opaque"


class StreamMode(StrEnum):
    """How a filter treats data that comes in chunks.

    ``FixedState`` treats each chunk alike, ``Evolving`` carries its state from chunk to chunk,
    ``Barrier`` needs all the data at once.
    """

    FIXED_STATE = "FixedState"
    EVOLVING = "Evolving"
    BARRIER = "Barrier"


@dataclass(frozen=True, config=NO_EXTRA)
class Tag:
    """Any worker that carries this tag: ``Tag("gpu")``."""

    Tag: str


@dataclass(frozen=True, config=NO_EXTRA)
class WorkerId:
    """The one worker of this id: ``WorkerId("w1")``."""

    WorkerId: str


@dataclass(frozen=True, config=NO_EXTRA)
class Remote:
    """Run on a worker elsewhere: ``Remote(Tag("gpu"))``."""

    Remote: Tag | WorkerId


Distribution = Literal["Local", "Any"] | Remote
"""Where a filter may run: on this machine, anywhere, or on a worker that is named."""


class FilterMeta(Frozen):
    """What the host may know about a filter without running it.

    Attributes:
        name: What the filter is called in listings and messages.
        kind: Whether it learns.
        cacheable: Whether equal input and state give a result that may be kept.
        differentiable: Whether gradients flow through it in a composite.
        deterministic: Whether equal input and state give an equal result.
        stream_mode: How it treats data that comes in chunks.
        distribution: Where it may run.
        input_schema: What ``forward`` takes; None if it is not declared.
        output_schema: What ``forward`` returns; None if it is not declared.
        rowwise: Whether each row of the output comes from the same row of the input alone, so
            that a pool may join calls. It is written as JSON only if it is true: hosts that do
            not know it refuse it.
    """

    name: str
    kind: FilterKind = FilterKind.STATELESS
    cacheable: bool = True
    differentiable: bool = False
    deterministic: bool = True
    stream_mode: StreamMode = StreamMode.FIXED_STATE
    distribution: Distribution = "Local"
    input_schema: Schema | None = None
    output_schema: Schema | None = None
    rowwise: bool = False

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = write(self)
        if not self.rowwise:
            fields.pop("rowwise", None)
        return fields

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            if name is None or value != type(self).model_fields[name].default:
                yield name, value

    def replace(self, **changes: Any) -> FilterMeta:
        """A copy with some attributes changed, validated like a new one.

        Args:
            changes: The attributes by name.

        Raises:
            ValidationError: One is unknown, or its value is not valid.
        """
        return FilterMeta(**{**dict(self), **changes})


class Filter(BaseModel):
    """A unit of work. Its pydantic fields are its configuration.

    Subclasses define ``forward``, and ``fit`` if they learn::

        class Scale(soma.Filter):
            factor: float = 2.0

            def forward(self, x, state):
                return x * self.factor

    A filter keeps what it learns in the state that ``fit`` returns, so that one object can
    serve many states, and a state can be sent, stored and restored apart from the object.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    if not TYPE_CHECKING:  # tools know a model's own signatures

        def __init__(self, /, *positional, **fields):
            if positional:
                example = next(iter(type(self).model_fields), "field")
                raise TypeError(
                    f"{type(self).__name__} takes its configuration by name: "
                    f"{type(self).__name__}({example}=…)"
                )
            super().__init__(**fields)

        __init__.__pydantic_base_init__ = True  # it is no initialiser of a subclass's own

        def __setattr__(self, name, value):
            try:
                super().__setattr__(name, value)
            except AttributeError as error:
                if hasattr(self, "__pydantic_fields_set__"):
                    raise
                raise AttributeError(
                    f"{type(self).__name__}.__init__ sets {name!r} before it has called "
                    "super().__init__(…), with the fields by name; or leave __init__ out, and "
                    "declare the fields in the class"
                ) from error
            except ValueError as error:
                if type(error) is not ValueError or name in type(self).model_fields:
                    raise
                raise ValueError(
                    f"{type(self).__name__} has no field {name!r}: what fit learns goes into the "
                    f"state that it returns; configuration is declared in the class "
                    f"(`{name}: int = 3`) and passed by name; `_{name}` is the object's own"
                ) from None

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, Brief(value)

    def fit(self, x: Any, y: Any = None) -> Any:
        """Learn from data. Called by FIT, COMPOSITE_FIT and BATCHED_FIT.

        Args:
            x: The training data, as the host sent it.
            y: The targets, or None.

        Returns:
            The state that ``forward`` is given later. The default learns nothing: ``{}``.
        """
        return {}

    def forward(self, x: Any, state: Any) -> Any:
        """Compute the output for an input. Called by FORWARD and the composite commands.

        Args:
            x: The input, as the host sent it or as the previous node returned it.
            state: What ``fit`` returned, or what the host sent; ``{}`` if there is none.

        Raises:
            NotImplementedError: The subclass does not define it.
        """
        close = get_close_matches("forward", vars(type(self)).keys() - {"forward"}, 1)
        meant = f", but {close[0]}" if close else ""
        raise NotImplementedError(f"{type(self).__name__} does not define forward(x, state){meant}")

    def on_load(self) -> None:
        """Get ready to run. Called once in the worker, when the filter is loaded into it.

        If it raises, the LOAD fails with that error: the place to look for a device, a file
        or a library. The default does nothing.
        """

    def on_unload(self) -> None:
        """Let go of what the filter holds. Called once in the worker, when it is not used any more.

        That is at UNLOAD, when another filter is loaded under its id, and when the worker ends by
        itself: at ``close``, ``shutdown``, and the end of the host's script. A worker that dies
        calls nothing. What it raises is logged. The default does nothing.
        """

    def on_epoch_end(self, loss: float) -> None:
        """Take note of a finished pass over the data.

        BATCHED_FIT calls it after each epoch in which the joint step trained this filter with
        an optimizer of its own: the place to step a schedule. The default does nothing.

        Args:
            loss: The mean loss of the epoch.
        """

    def meta(self) -> FilterMeta:
        """Describe this filter. Called once, when it is loaded.

        The default is named after the class, and ``Trainable`` if the class defines ``fit``;
        change it with ``super().meta().replace(differentiable=True)``.
        """
        learns = type(self).fit is not Filter.fit
        kind = FilterKind.TRAINABLE if learns else FilterKind.STATELESS
        return FilterMeta(name=type(self).__name__, kind=kind)

    def config_hash(self) -> str:
        """A SHA-256 of the class's identity and the configuration, as 64 hexadecimal digits.

        Equal filters have equal hashes, in every process and every run.

        Raises:
            TypeError: A field holds an object whose content soma cannot hash.
        """
        return fingerprint([type(self), fields_of(self)])
