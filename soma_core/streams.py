"""For transport authors: a channel over any byte stream, and shared memory beside it."""

from soma_core.channel.shared_memory import SharedMemory
from soma_core.channel.streams import (
    ByteStream,
    PipeStream,
    SocketStream,
    StreamChannel,
    open_stream,
)
from soma_core.wire.parser import StreamLimits

__all__ = [
    "ByteStream",
    "PipeStream",
    "SharedMemory",
    "SocketStream",
    "StreamChannel",
    "StreamLimits",
    "open_stream",
]
