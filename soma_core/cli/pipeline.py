"""PipelineFile: the TOML format of ``soma run``, and the errors that name its fields.

::

    [transport]                       # optional; stdio without it
    name = "stdio"
    options = { }                     # what soma.connect(name, …) takes

    [[filters]]                       # the chain, in order
    id = "scale"
    filter = "sklearn.StandardScaler"
    config = { }

    [data]                            # paths are relative to this file
    x = { path = "iris.csv", columns = ["sepal_length", "sepal_width"] }
    y = { path = "iris.csv", columns = "species" }
    apply = "new.npy"                 # optional; what the fitted chain runs on, else x

    [fit]                             # optional; [[fit]] for several steps, each on its nodes
    mode = "fit"                      # or "composite", or "batched" with epochs, batch_size, …

    [output]
    path = "predictions.csv"          # .npy, .npz or .csv
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from soma_core.cli.console import CommandFailed
from soma_core.models.frozen import Frozen
from soma_core.models.regular_file import open_regular
from soma_core.models.validation_errors import describe

_LARGEST = 1 << 24  # bytes of a pipeline; it is written by hand


class _Section(Frozen):
    model_config = ConfigDict(strict=True)


def _known_suffix(path: str) -> str:
    if Path(path).suffix.lower() not in (".npy", ".npz", ".csv"):
        raise ValueError(f"{path!r} should end in .npy, .npz or .csv")
    return path


FilePath = Annotated[str, AfterValidator(_known_suffix)]
NodeId = Annotated[str, Field(min_length=1)]
Column = str | Annotated[int, Field(ge=0)]


class TransportSection(_Section):
    """Where the filters run.

    Attributes:
        name: A transport that is installed.
        options: Its options.
        timeout: Seconds that each command may take; for ever without it.
    """

    name: str = "stdio"
    options: dict[str, Any] = Field(default_factory=dict)
    timeout: Annotated[float, Field(gt=0, strict=False)] | None = None


class FilterSection(_Section):
    """One filter of the chain.

    Attributes:
        id: What the other sections call it.
        filter: Its registered name.
        config: Its configuration.
    """

    id: NodeId
    filter: str
    config: dict[str, Any] = Field(default_factory=dict)


class ArrayFile(_Section):
    """An array in a file.

    Attributes:
        path: An npy, npz or csv file.
        key: Which array of an npz file; needed if it holds several.
        columns: Which columns of a csv file, by name or position: a list makes a table, a
            single one a plain row of values. All of them without it.
        header: Whether the first line of a csv file names the columns.
        dtype: Numpy's name of the element type to convert to.
    """

    path: FilePath
    key: str | None = None
    columns: Column | Annotated[list[Column], Field(min_length=1)] | None = None
    header: bool = True
    dtype: str | None = None

    @model_validator(mode="after")
    def _options_fit_the_format(self) -> ArrayFile:
        suffix = Path(self.path).suffix.lower()
        if self.key is not None and suffix != ".npz":
            raise ValueError(f"key is for npz files, and {self.path!r} is none")
        if (self.columns is not None or not self.header) and suffix != ".csv":
            raise ValueError(f"columns and header are for csv files, and {self.path!r} is none")
        return self


Source = Annotated[
    ArrayFile,
    BeforeValidator(lambda value: {"path": value} if isinstance(value, str) else value),
]


class DataSection(_Section):
    """What the chain learns from and runs on.

    Attributes:
        x: The data.
        y: The targets, where a filter learns from targets.
        validation_x: What a batched fit measures the chain on after each epoch.
        validation_y: The targets of that.
        apply: What the fitted chain runs on; ``x`` without it.
    """

    x: Source
    y: Source | None = None
    validation_x: Source | None = None
    validation_y: Source | None = None
    apply: Source | None = None


class _Step(_Section):
    nodes: Annotated[list[NodeId], Field(min_length=1)] | None = None


class Each(_Step):
    """Fit each node on all the data that the nodes before it let through.

    Attributes:
        nodes: Neighbours in the chain; all of it without them.
    """

    mode: Literal["fit"] = Field()


class Composite(_Step):
    """COMPOSITE_FIT: fit each node, then take one step that trains differentiable ones together.

    Attributes:
        nodes: Neighbours in the chain; all of it without them.
    """

    mode: Literal["composite"] = Field()


class Batched(_Step):
    """BATCHED_FIT: the same batch by batch; a plain node is fitted to each batch alone.

    Attributes:
        nodes: Neighbours in the chain; all of it without them.
        epochs: How often to go through the data.
        batch_size: Rows in a batch.
        shuffle: Whether to draw another order of rows in each epoch.
        seed: Makes those orders repeatable.
        resume: Whether nodes go on from what an earlier step taught them.
        metrics: What is measured on the validation data beside the loss, by name: names of
            scorers of scikit-learn.
        patience: How many epochs without a better one end the step.
        restore_best: Whether the nodes are put back as they were after the best epoch.
    """

    mode: Literal["batched"] = Field()
    epochs: Annotated[int, Field(ge=1)] = 1
    batch_size: Annotated[int, Field(ge=1)] = 32
    shuffle: bool = False
    seed: Annotated[int, Field(ge=0)] | None = None
    resume: bool = False
    metrics: dict[str, str] | None = None
    patience: Annotated[int, Field(ge=1)] | None = None
    restore_best: bool = False


FitStep = Annotated[Each | Composite | Batched, Field(discriminator="mode")]


def _as_steps(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


class OutputSection(_Section):
    """Where the output of the last filter goes.

    Attributes:
        path: An npy, npz or csv file; it is replaced.
    """

    path: FilePath


class PipelineFile(_Section):
    """A whole file.

    Attributes:
        transport: Where the filters run.
        filters: The chain, in order.
        data: What it learns from and runs on.
        fit: How it learns, step by step; it does not without.
        output: Where its output goes.
    """

    transport: TransportSection = Field(default_factory=TransportSection)
    filters: Annotated[list[FilterSection], Field(min_length=1)]
    data: DataSection
    fit: Annotated[list[FitStep], BeforeValidator(_as_steps)] = Field(default_factory=list)
    output: OutputSection

    @property
    def node_ids(self) -> list[str]:
        """The ids of the chain, in order."""
        return [node.id for node in self.filters]

    @model_validator(mode="after")
    def _nodes_fit_together(self) -> PipelineFile:
        chain = self.node_ids
        twice = sorted({node_id for node_id in chain if chain.count(node_id) > 1})
        if twice:
            raise ValueError(f"filters: each id is given once; repeated: {', '.join(twice)}")
        if self.data.validation_x is None and any(
            isinstance(step, Batched) and step.metrics for step in self.fit
        ):
            raise ValueError("fit: metrics are measured on data.validation_x; name a file there")
        for step in self.fit:
            if step.nodes is not None and not _are_neighbours(step.nodes, chain):
                raise ValueError(
                    f"fit: nodes {step.nodes} are not neighbours in the chain {chain}, in its order"
                )
        return self


def _are_neighbours(nodes: list[str], chain: list[str]) -> bool:
    return any(chain[start : start + len(nodes)] == nodes for start in range(len(chain)))


def read_pipeline(path: Path) -> PipelineFile:
    """Read and validate a pipeline.

    Raises:
        CommandFailed: It cannot be read, is no TOML, or a field is wrong; the message names it.
    """
    try:
        with open_regular(path) as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise CommandFailed(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise CommandFailed(f"cannot read {path}: {error}") from None
    if len(text) > _LARGEST:
        raise CommandFailed(f"{path} is no pipeline: it has more than {_LARGEST:,} bytes")
    try:
        content = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{path} is not valid TOML: {error}") from None
    try:
        return PipelineFile.model_validate(content)
    except ValidationError as error:
        raise CommandFailed(f"{path}: {describe(error)}") from None
