"""For transport authors: a channel over any byte stream, shared memory, and messages as bytes."""

from soma_core.channel.shared_memory import SharedMemory
from soma_core.channel.signalled import error_of_handler, raise_error_of_handler
from soma_core.channel.streams import (
    ByteStream,
    PipeStream,
    SocketStream,
    StreamChannel,
    open_stream,
)
from soma_core.wire.frames import MAGIC as FRAME_MAGIC
from soma_core.wire.frames import PREAMBLE_SIZE, frame_parts, read_preamble
from soma_core.wire.parser import MessageParser, StreamLimits

__all__ = [
    "FRAME_MAGIC",
    "PREAMBLE_SIZE",
    "ByteStream",
    "MessageParser",
    "PipeStream",
    "SharedMemory",
    "SocketStream",
    "StreamChannel",
    "StreamLimits",
    "error_of_handler",
    "frame_parts",
    "open_stream",
    "raise_error_of_handler",
    "read_preamble",
]
