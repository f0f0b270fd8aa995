"""For transport authors: what a daemon calls in the worker's process."""

from soma_core.channel.limits import limit_memory
from soma_core.channel.process import default_signals, exit_now, hold_lifeline, inherited_side
from soma_core.channel.process_tree import join_process_tree
from soma_core.engine.inbox import Inbox
from soma_core.engine.interrupts import Interrupts
from soma_core.engine.records import Host, RecordForwarder
from soma_core.engine.serving import Responder, serve
from soma_core.wire.definitions.registry import become_worker

__all__ = [
    "Host",
    "Inbox",
    "Interrupts",
    "RecordForwarder",
    "Responder",
    "become_worker",
    "default_signals",
    "exit_now",
    "hold_lifeline",
    "inherited_side",
    "join_process_tree",
    "limit_memory",
    "serve",
]
