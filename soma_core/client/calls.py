"""Calls: one command to send, and what is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import Context
from time import monotonic
from typing import Any

from soma_core.channel.deadline import NEVER, Deadline
from soma_core.client.arguments import check_listener
from soma_core.progress import Listener
from soma_core.protocol.commands import Command, Hello
from soma_core.protocol.fields import set_fields
from soma_core.protocol.replies import REPLY_TO, ForwardReply, Reply
from soma_core.protocol.versions import WorkerHello

Progress = Listener

_REPLY_TO = REPLY_TO | {Hello: WorkerHello}


class Call:
    """A command on its way, and how long it may take.

    Args:
        model: The class of the command; :class:`Command` itself for one of a plugin.
        fields: Its fields, ``cmd`` among them.
        timeout: Seconds for everything, waiting for other calls included; None for ever.
        uses: The nodes whose newest states it uses.
        progress: Receives the command's progress events.
        stall_timeout: Seconds that it may take without a progress event.

    Attributes:
        started: When it was made (``time.monotonic``).
        asked: When it was asked for: before that, if a pool had it wait.
        deadline: When it must have ended.
        changes_states: Whether a command of a plugin changes what its nodes learned.
        executed: Whether the worker has done it, and its reply was taken.
        when_unclaimed: Told that the worker has done it, when nobody waits for that any more.
        rebuild: Makes the fields anew that hold pickles already; None if none does.
        contexts: Where it was asked for, if a pool runs it: several places if it joins calls.
    """

    contexts: tuple[Context, ...] = ()
    changes_states = executed = False
    when_unclaimed: Callable[[Call], None] | None = None
    rebuild: Callable[[], dict[str, Any]] | None = None

    def __init__(
        self,
        model: type[Command],
        fields: dict[str, Any],
        timeout: float | None = None,
        uses: Iterable[str] = (),
        progress: Progress | None = None,
        stall_timeout: float | None = None,
    ) -> None:
        self.model = model
        self.fields = fields
        self.timeout = timeout
        self.uses = uses
        self.progress = progress
        self.stall_timeout = stall_timeout
        if progress is not None or stall_timeout is not None:
            fields["events"] = True
            if progress is not None:
                check_listener("progress", progress, "a report")
        self.started = self.asked = monotonic()
        self.deadline = NEVER if timeout is None else Deadline(self.started + timeout)

    @property
    def cmd(self) -> str:
        """The name of the command."""
        cmd: str = self.fields["cmd"]
        return cmd

    @property
    def node_id(self) -> str | None:
        """The node that it is about, for messages."""
        return self.fields.get("node_id")

    @property
    def reply(self) -> type[Reply]:
        """The class of its reply."""
        return _REPLY_TO.get(self.model, ForwardReply)

    @classmethod
    def of(cls, command: Command, timeout: float | None = None) -> Call:
        """The call of a command, with nothing more asked of it."""
        return cls(type(command), set_fields(command), timeout)

    def __str__(self) -> str:
        return self.cmd if self.node_id is None else f"{self.cmd} of node {self.node_id!r}"
