"""Message: one whole message, apart from how it is carried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Any, NamedTuple


class Dialect(Enum):
    """How a message was, or is to be, written; a reply has the dialect of its request."""

    LINE = "line"
    FRAME = "frame"


class Message(NamedTuple):
    """One whole message.

    Attributes:
        header: The fields: of a line its JSON text, as UTF-8; of a frame its MessagePack map.
        buffers: Bytes that the header refers to by index. Those of a received message are
            writable and belong to the receiver alone; those of a message to send are read
            before ``send`` returns and may be views of the caller's memory.
        dialect: How it was written. Messages with buffers are frames.
    """

    header: bytes
    buffers: Sequence[Any] = ()
    dialect: Dialect = Dialect.FRAME


as_message: Callable[[tuple[bytes, Sequence[Any], Dialect]], Message] = partial(
    tuple.__new__, Message
)
"""A message of its three parts, at the price of a tuple."""
