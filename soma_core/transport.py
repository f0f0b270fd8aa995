"""For transport authors: the contract of a channel and a transport, and what starts processes."""

from soma_core.channel.at_exit import stop_at_exit
from soma_core.channel.contract import (
    Channel,
    DaemonInfo,
    ExitStatus,
    OutputOptions,
    ProcessOptions,
    SessionInfo,
    Transport,
    TransportOptions,
    WorkerInfo,
)
from soma_core.channel.deadline import Deadline
from soma_core.channel.forks import close_in_forked_child
from soma_core.channel.limits import MemorySize, memory_size
from soma_core.channel.output import OutputPump
from soma_core.channel.printed import OutputLine
from soma_core.channel.process import WorkerProcess
from soma_core.channel.process_tree import ProcessTree
from soma_core.channel.starting import starting
from soma_core.channel.threads import thread_limits
from soma_core.models.filters import Distribution, Remote, Tag, WorkerId
from soma_core.plugins.options import PluginOptions, plugin_variables
from soma_core.wire.message import Dialect, Message

__all__ = [
    "Channel",
    "DaemonInfo",
    "Deadline",
    "Dialect",
    "Distribution",
    "ExitStatus",
    "MemorySize",
    "Message",
    "OutputLine",
    "OutputOptions",
    "OutputPump",
    "PluginOptions",
    "ProcessOptions",
    "ProcessTree",
    "Remote",
    "SessionInfo",
    "Tag",
    "Transport",
    "TransportOptions",
    "WorkerId",
    "WorkerInfo",
    "WorkerProcess",
    "close_in_forked_child",
    "memory_size",
    "plugin_variables",
    "starting",
    "stop_at_exit",
    "thread_limits",
]
