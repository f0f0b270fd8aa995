"""The configuration of a server: what a file and the environment may set."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from soma_core.streams import StreamLimits
from soma_core.transport import MemorySize
from soma_http.server.inference.messages import TensorMetadata

FRIGHTENING = "clients may run any code as this user"
"""What an operator writes who lets clients send pickles."""

_MIB = 1 << 20
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


EnvValue = Annotated[str, Field(coerce_numbers_to_str=True)]
"""The value of an environment variable."""

_NAME = StringConstraints(pattern=r"^[\w\-][\w.\-]{0,199}$")  # a part of the path of a request
ModelName = Annotated[str, _NAME]
ModelVersion = Annotated[str, Field(coerce_numbers_to_str=True), _NAME]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _readable(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            file.read(1)  # a checkpoint may be large
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    return path


def _check_pair(certificate: Path, key: Path | None) -> None:
    """Read what TLS needs as the server will; a key with a password would wait for that."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise ValueError(
            f"{certificate} and {key} are no certificate chain and its key, without a password, "
            f"as PEM: {error}"
        ) from None


class ServerConfig(_Section):
    """The table ``[server]``.

    Attributes:
        host: The address to listen at.
        port: The port; 0 for any that is free.
        tokens: A file with the bearer tokens of clients, one a line; ``#`` starts a comment.
            Without it the server listens on this machine alone.
        pickle: ``"never"``, or ``"clients may run any code as this user"``.
        certificate: A file with the certificate chain for TLS; None leaves TLS to a proxy.
        key: A file with its private key.
        console: Whether there is a page at ``/console`` that shows the server.
        root_path: The path under which a proxy has the server.
        grace: Seconds that running requests have when the server ends.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    tokens: Annotated[Path, AfterValidator(_readable)] | None = None
    pickle: Literal["never", "clients may run any code as this user"] = "never"
    certificate: Annotated[Path, AfterValidator(_readable)] | None = None
    key: Annotated[Path, AfterValidator(_readable)] | None = None
    console: bool = True
    root_path: str = ""
    grace: float = Field(default=10.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _nothing_open_to_the_network(self) -> Self:
        if self.tokens is None and self.host not in _LOOPBACK:
            raise ValueError(
                f"host = {self.host!r} lets other machines in, and there are no tokens: give a "
                'file of them as tokens = "…", or listen at 127.0.0.1'
            )
        if self.tokens is None and self.allows_pickles:
            raise ValueError(
                "pickle lets clients run code as this user, and without tokens every user of this "
                'machine can connect: give a file of them as tokens = "…"'
            )
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together: give both or neither")
        if self.certificate is not None:
            _check_pair(self.certificate, self.key)
        return self

    @property
    def allows_pickles(self) -> bool:
        """Whether clients may send pickles."""
        return self.pickle == FRIGHTENING


class LimitsConfig(_Section):
    """The table ``[limits]``.

    Attributes:
        body: Bytes of one request, or of one message of a WebSocket.
        connections: Requests and WebSockets at once; more get status 503, but for probes. When more
            connections are open, those are closed that are silent the longest.
        rows: Rows of one inference request, as the first axis of its longest input; None for any.
        sharing: WebSockets at once to models that clients share; more get status 503. Each has a
            thread.
        token_requests: Requests and WebSockets of one token at once; more get status 429. None for
            any number.
        token_seconds: Seconds that the requests of one token may take together in each minute;
            beyond that they get status 429. WebSockets are not counted. None for any.
    """

    body: int = Field(default=64 * _MIB, ge=1)
    connections: int = Field(default=256, ge=1)
    rows: int | None = Field(default=None, ge=1)
    sharing: int = Field(default=64, ge=0)
    token_requests: int | None = Field(default=None, ge=1)
    token_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    def of_messages(self) -> StreamLimits:
        """The limits of a worker: no message can be larger than the server lets through."""
        return StreamLimits(line=self.body, header=self.body, body=self.body)


class WorkersConfig(_Section):
    """The table ``[workers]``: workers of clients' own, each over a WebSocket.

    Attributes:
        most: How many may run at once; 0 for none.
        threads: The most threads that each numerical library of a worker may start.
        allow_modules: Modules that a filter's configuration may name and have imported.
        data_files: Whether clients may name files of this machine for their workers to read.
        filter_files: Whether the settings of a filter may name files of this machine, or models to
            download.
        python: The interpreter of the workers.
        env: Variables to add to their environment.
        cwd: Their working directory.
        grace: Seconds in which a worker may end by itself whose client is gone.
        memory_limit: Memory of its own that each, and each of its children, may take: bytes, or
            a text as in ``4G``.
        nice: By how much the priority of each is lowered: 0 to 19.
    """

    most: int = Field(default=8, ge=0)
    threads: int | None = Field(default=None, ge=1)
    allow_modules: tuple[str, ...] = ()
    data_files: bool = False
    filter_files: bool = False
    python: Path = Field(default_factory=lambda: Path(sys.executable))
    env: Mapping[str, EnvValue] = Field(default_factory=dict)
    cwd: Path = Path("/")
    grace: float = Field(default=5.0, ge=0, allow_inf_nan=False)
    memory_limit: MemorySize | None = None
    nice: int = Field(default=0, ge=0, le=19)


class NodeConfig(_Section):
    """A registered filter and its configuration.

    Attributes:
        filter: Its name: ``soma filters`` lists them.
        config: The values of its fields.
    """

    filter: str = Field(min_length=1)
    config: Mapping[str, Any] = Field(default_factory=dict)


class BatchingConfig(_Section):
    """How waiting requests for a model are joined into one command.

    Attributes:
        max_rows: The most rows of one command.
        max_delay: The most seconds that a request waits for others.
    """

    max_rows: int = Field(default=64, ge=2)
    max_delay: float = Field(default=0.005, ge=0, allow_inf_nan=False)


class TensorConfig(TensorMetadata):
    """An input or output of a model, as the Open Inference Protocol describes it.

    Attributes:
        name: What requests call it.
        datatype: ``"FP32"`` and the like.
        shape: The length of each axis; -1 is any.
    """

    model_config = _Section.model_config

    name: str = Field(min_length=1)
    shape: list[Annotated[int, Field(ge=-1)]]


def _unlike(tensors: tuple[TensorConfig, ...]) -> tuple[TensorConfig, ...]:
    names = [tensor.name for tensor in tensors]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two are called {name!r}")
    return tensors


class ModelConfig(_Section):
    """A table ``[models.NAME]``: a filter or a chain of them, in workers of its own.

    Attributes:
        filter: A registered filter; give this or ``chain``.
        config: The values of its fields.
        chain: Several of them, by node id: the output of each is the input of the next.
        version: What requests call this version of it.
        checkpoint: A file of ``Worker.save_checkpoint`` with what its nodes learned; the node of
            a single filter is called like the model.
        pickle: ``"same-user"`` if the checkpoint holds pickles and may run code.
        workers: How many workers it has.
        threads: Threads of the numerical libraries of each; None for the cores by their number.
        timeout: Seconds that a request may take once a worker has taken it.
        max_queue: How many requests may wait; more get status 503.
        batching: How requests are joined; None if they are not. The filter must say that it is
            ``rowwise``.
        allow_modules: Modules that its configuration may name and have imported.
        env: Variables to add to the environment of its workers.
        memory_limit: Memory of its own that each, and each of its children, may take: bytes, or
            a text as in ``4G``.
        nice: By how much the priority of each is lowered: 0 to 19.
        inputs: Its inputs, where the filter's meta does not say. With several, the filter gets a
            dict of them.
        outputs: Its outputs.
    """

    filter: str | None = None
    config: Mapping[str, Any] = Field(default_factory=dict)
    chain: Mapping[str, NodeConfig] = Field(default_factory=dict)
    version: ModelVersion = "1"
    checkpoint: Annotated[Path, AfterValidator(_readable)] | None = None
    pickle: Literal["never", "same-user"] = "never"
    workers: int = Field(default=1, ge=1)
    threads: int | None = Field(default=None, ge=1)
    timeout: float | None = Field(default=60.0, gt=0)
    max_queue: int | None = Field(default=256, ge=0)
    batching: BatchingConfig | None = None
    allow_modules: tuple[str, ...] = ()
    env: Mapping[str, EnvValue] = Field(default_factory=dict)
    memory_limit: MemorySize | None = None
    nice: int = Field(default=0, ge=0, le=19)
    inputs: Annotated[tuple[TensorConfig, ...], AfterValidator(_unlike)] = ()
    outputs: Annotated[tuple[TensorConfig, ...], AfterValidator(_unlike)] = ()

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.filter is None) == (not self.chain):
            raise ValueError("give either a filter or a chain of them")
        return self

    def nodes(self, name: str) -> dict[str, NodeConfig]:
        """Its nodes, by id, in order."""
        if self.filter is None:
            return dict(self.chain)
        return {name: NodeConfig(filter=self.filter, config=self.config)}


class Settings(_Section):
    """All that a server is configured by."""

    server: ServerConfig = Field(default_factory=ServerConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    workers: WorkersConfig = Field(default_factory=WorkersConfig)
    models: Mapping[ModelName, ModelConfig] = Field(default_factory=dict)
