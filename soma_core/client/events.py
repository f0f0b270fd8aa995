"""Events of a command: each goes to whoever is to see it."""

from __future__ import annotations

from soma_core.channel.output import OutputPump
from soma_core.client.calls import Call
from soma_core.client.records import WorkerRecords
from soma_core.protocol.replies import Event

__all__ = ["deliver"]


_records = WorkerRecords()  # loggers and warnings are of the process, and so is what bounds them


def deliver(event: Event, call: Call, output: OutputPump | None) -> None:
    """Give progress to the caller's callback, and records to the loggers and warnings of here.

    Args:
        event: The event.
        call: The command that it is of.
        output: What reads the worker's output: what was printed before a record is shown first.
    """
    data = {} if event.data is None else event.data
    if event.event == "progress":
        if call.progress is not None:
            call.progress(data)
        return
    if output is not None:
        output.show(unfinished=False)
    _records.hand_over(event.event, data, call.node_id)
