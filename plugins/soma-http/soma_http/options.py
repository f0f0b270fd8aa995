"""Options of the transport: which server, and how to be let in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from soma_core.streams import StreamLimits
from soma_core.transport import OutputOptions


def _of_a_server(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"the address of a server is expected, as in 'https://host:8000', got {url!r}"
        )
    if parts.username or parts.password:
        raise ValueError("it names a user or password; give the token as token=… instead")
    if parts.query or parts.fragment:
        raise ValueError(f"it has a query or fragment: {url!r}; leave that out")
    return url.rstrip("/")


class HttpOptions(OutputOptions):
    """Options of the HTTP transport.

    Attributes:
        url: Where the server is: ``"https://host:8000"``, with the path under which a proxy has
            it, if it does.
        token: The bearer token that lets one in; None where the server wants none.
        model: A model of the server whose workers to share with its other clients; None for a
            worker of your own. A model can be run, and not fitted.
        ca_file: A file with the certificates to trust for ``https``; None for the system's.
        trust_server: Whether the server may run code in this process: objects then travel as
            pickles, if the server allows that too. Without it ``pickle`` is ``"never"``.
        limits: The largest messages that the host accepts.
    """

    url: Annotated[str, AfterValidator(_of_a_server)] = "http://127.0.0.1:8000"
    token: SecretStr | None = None
    model: Annotated[str | None, StringConstraints(pattern=r"^[\w.\-]{1,200}$")] = None
    ca_file: Path | None = None
    trust_server: bool = False
    limits: StreamLimits = Field(default_factory=StreamLimits)

    @model_validator(mode="before")
    @classmethod
    def _no_pickles_unless_trusted(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("trust_server") is not True:
            return {**given, "pickle": "never"}
        return given
