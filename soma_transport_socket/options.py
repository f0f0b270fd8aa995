"""The options of the socket transport."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from soma_core.streams import StreamLimits
from soma_core.transport import OutputOptions
from soma_transport_socket import address
from soma_transport_socket.messages import SessionName


class SocketOptions(OutputOptions):
    """Options of the socket transport.

    Attributes:
        path: Where the daemon listens; the default is the user's own.
        owner: The user whose daemon it is, by uid; None is one's own. Another user's daemon
            must let one in, and needs ``pickle="never"``.
        session: The name of a worker that is shared with whoever names it too, and that lives
            on without clients; None for a worker of your own. Letters, digits, ``.``, ``_``
            and ``-``, at most 64.
        limits: The largest messages that the host accepts; the daemon accepts those of its
            environment: ``SOMA_LIMITS='{"header": 1000000}'``.
    """

    path: Path = Field(default_factory=address.default_path)
    owner: int | None = Field(default=None, ge=0)
    session: SessionName | None = None
    limits: StreamLimits = Field(default_factory=StreamLimits)

    @model_validator(mode="after")
    def _no_pickles_of_others(self) -> Self:
        if self.owner not in (None, os.getuid()) and self.pickle != "never":
            raise ValueError(
                f"the daemon of another user ({self.owner}) could run code here by a pickle; "
                "connect with pickle='never'"
            )
        return self

    @property
    def shared(self) -> bool:
        return self.session is not None
