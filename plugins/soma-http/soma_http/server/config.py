"""The configuration of a server: what a file and the environment may set."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from soma_core.streams import StreamLimits

__all__ = ["FRIGHTENING", "LimitsConfig", "ServerConfig", "Settings", "WorkersConfig"]

FRIGHTENING = "clients may run any code as this user"
"""What an operator writes who lets clients send pickles."""

_MIB = 1 << 20
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _readable(path: Path) -> Path:
    try:
        path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    return path


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
        root_path: The path under which a proxy has the server.
        grace: Seconds that running requests have when the server ends.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    tokens: Annotated[Path, AfterValidator(_readable)] | None = None
    pickle: Literal["never", "clients may run any code as this user"] = "never"
    certificate: Annotated[Path, AfterValidator(_readable)] | None = None
    key: Annotated[Path, AfterValidator(_readable)] | None = None
    root_path: str = ""
    grace: float = Field(default=10.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _nothing_open_to_the_network(self) -> Self:
        if self.tokens is None and self.host not in _LOOPBACK:
            raise ValueError(
                f"host = {self.host!r} lets other machines in, and there are no tokens: give a "
                'file of them as tokens = "…", or listen at 127.0.0.1'
            )
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together: give both or neither")
        return self

    @property
    def allows_pickles(self) -> bool:
        """Whether clients may send pickles."""
        return self.pickle == FRIGHTENING


class LimitsConfig(_Section):
    """The table ``[limits]``.

    Attributes:
        body: Bytes of one request, or of one message of a WebSocket.
        connections: Connections and running requests at once; more get status 503.
    """

    body: int = Field(default=64 * _MIB, ge=1)
    connections: int = Field(default=256, ge=1)

    def of_messages(self) -> StreamLimits:
        """The limits of a worker: no message can be larger than the server lets through."""
        return StreamLimits(line=self.body, header=self.body, body=self.body)


class WorkersConfig(_Section):
    """The table ``[workers]``: workers of clients' own, each over a WebSocket.

    Attributes:
        most: How many may run at once; 0 for none.
        threads: The most threads that each numerical library of a worker may start.
        allow_modules: Modules that a filter's configuration may name and have imported.
        python: The interpreter of the workers.
        env: Variables to add to their environment.
        cwd: Their working directory.
        grace: Seconds in which a worker may end by itself whose client is gone.
    """

    most: int = Field(default=8, ge=0)
    threads: int | None = Field(default=None, ge=1)
    allow_modules: tuple[str, ...] = ()
    python: Path = Field(default_factory=lambda: Path(sys.executable))
    env: Mapping[str, str] = Field(default_factory=dict)
    cwd: Path = Path("/")
    grace: float = Field(default=5.0, ge=0, allow_inf_nan=False)


class Settings(_Section):
    """All that a server is configured by."""

    server: ServerConfig = Field(default_factory=ServerConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    workers: WorkersConfig = Field(default_factory=WorkersConfig)
