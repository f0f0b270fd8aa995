"""For plugin authors: what a command that is executed, its reply and its nodes look like.

``pack`` and ``unpack`` turn typed values (plain data, arrays, tensors, what codecs add) into bytes
and buffers and back, as they travel in frames; ``read_value`` reads those of lines. Nothing is
pickled.
"""

from soma_core.engine.nodes import FilterFailed, Node
from soma_core.engine.packing import pack, read_value, unpack
from soma_core.models.fingerprint import fingerprint
from soma_core.models.optimizers import build_optimizer, optimizer_class
from soma_core.protocol.commands import Command, CompositeForward, Forward
from soma_core.protocol.replies import CompositeForwardReply, ForwardReply, Reply

__all__ = [
    "Command",
    "CompositeForward",
    "CompositeForwardReply",
    "FilterFailed",
    "Forward",
    "ForwardReply",
    "Node",
    "Reply",
    "build_optimizer",
    "fingerprint",
    "optimizer_class",
    "pack",
    "read_value",
    "unpack",
]
