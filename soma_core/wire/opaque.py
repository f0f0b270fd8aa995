"""OpaqueState: a state, or a part of one, that cannot be read here and stays as it came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class OpaqueState:
    """An object in a state that this process cannot read, such as one of a library that it lacks.

    Sent to a worker, it arrives as the object that it was; checkpoints and restarts keep it.

    Args:
        content: The pickle.
        buffers: What lies beside the pickle.
        reason: Why it cannot be read here.

    Attributes:
        content: As given.
        buffers: As given.
        reason: As given.
    """

    __slots__ = ("buffers", "content", "reason")

    def __init__(self, content: bytes, buffers: Sequence[bytes], reason: str) -> None:
        self.content, self.buffers, self.reason = content, tuple(buffers), reason

    def load(self) -> Any:
        """Read it after all, where what it needs can be imported by now.

        Raises:
            ProtocolError: ``invalid_command``: it still cannot be read; the message says why.
        """
        from soma_core.wire.pickles import Pickles

        return Pickles().load(self.content, map(bytearray, self.buffers))

    def __repr__(self) -> str:
        size = len(self.content) + sum(map(len, self.buffers))
        return f"<OpaqueState of {size:,} bytes, not read here: {self.reason}>"
