"""Orders: what a worker process is told when it is started, or forked."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from soma_transport_socket.peers import PicklePolicy

__all__ = ["Order"]


@dataclass(frozen=True)
class Order:
    """How a worker is to be run.

    Attributes:
        shared: Whether it serves a session, whose clients come and go over a control socket;
            else it serves one client, on the connection that came with the order.
        pickle: Whether its engine makes and reads pickles.
        threads: How many threads each numerical library may start; None leaves them alone.
        memory_limit: Bytes of memory that it may take for itself; None for any.
    """

    shared: bool = False
    pickle: PicklePolicy = "same-user"
    threads: int | None = None
    memory_limit: int | None = None

    def to_json(self) -> str:
        """As it is handed over."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Order:
        """What :meth:`to_json` returned."""
        return cls(**json.loads(text))
