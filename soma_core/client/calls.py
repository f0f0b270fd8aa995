"""Calls: one command under way, and the reply that ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from numpy import ndarray

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.wire.codec import Decoder, FrameEncoder

__all__ = ["Build", "Call", "Progress", "Reply"]

Progress = Callable[[dict[str, Any]], None]
Build = Callable[[FrameEncoder], dict[str, Any]]

_LIVENESS = 0.25  # seconds between looks at whether the worker's process still runs


class Call:
    """One command under way.

    Args:
        cmd: The verb.
        build: Makes the fields of the command with the encoder that it is given; not called if
            the text of the command is known, and None if it has no fields.
        timeout: Seconds for everything, waiting for other calls included; None for ever.
        node_id: The node that it is about, for messages.
        node_ids: The nodes whose newest states it uses.
        progress: Receives the command's progress events.
        stall_timeout: Seconds that it may take without a progress event.

    Attributes:
        text: The text of the command before its id, if that is known.
        buffers: The buffers that this text refers to.
        wants_events: Whether the worker must report progress.
        message_id: Its id on the wire.
        sent: Whether the worker may have received it.
        settled: Whether its reply came, or nobody waits for that any more.
        progressed: When it was sent, or its last progress event came.
        last_look: Whether the worker was seen to be gone, and is waited for one last time.
    """

    text: bytes | None = None
    buffers: Sequence[Any] = ()
    message_id = 0
    sent = True
    settled = False
    last_look = False
    progressed = 0.0

    def __init__(
        self,
        cmd: str,
        build: Build | None,
        timeout: float | None = None,
        node_id: str | None = None,
        node_ids: Iterable[str] = (),
        progress: Progress | None = None,
        stall_timeout: float | None = None,
    ) -> None:
        self.cmd = cmd
        self.build = build
        self.timeout = timeout
        self.node_id = node_id
        self.node_ids = node_ids
        self.progress = progress
        self.stall_timeout = stall_timeout
        self.wants_events = progress is not None or stall_timeout is not None
        self.started = time.monotonic()
        self.deadline = None if timeout is None else self.started + timeout

    def __str__(self) -> str:
        return self.cmd if self.node_id is None else f"{self.cmd} of node {self.node_id!r}"

    def fields(self, encoder: FrameEncoder) -> dict[str, Any]:
        """The fields of the command, but for the id."""
        fields: dict[str, Any] = {"cmd": self.cmd}
        if self.build is not None:
            fields |= self.build(encoder)
        if self.wants_events:
            fields["events"] = True
        return fields

    def again(self) -> Call:
        """The same command anew, within the time that it was given first."""
        call = Call(
            self.cmd,
            self.build,
            self.timeout,
            self.node_id,
            self.node_ids,
            self.progress,
            self.stall_timeout,
        )
        call.text, call.buffers, call.deadline = self.text, self.buffers, self.deadline
        return call

    def left(self) -> float | None:
        """Seconds until the deadline; None if there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def over(self) -> bool:
        """Whether its time has passed, or it has made no progress for too long."""
        now = time.monotonic()
        return (self.deadline is not None and now >= self.deadline) or self._stalled(now)

    def _stalled(self, now: float) -> bool:
        limit = self.stall_timeout
        return limit is not None and now >= self.progressed + limit

    def excess(self) -> str:
        """Which of its limits it exceeded."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return f"did not end within {round(self.timeout or 0.0, 3):g} s"
        return f"made no progress for {self.stall_timeout:g} s"

    def next_wait(self) -> float:
        """Seconds to wait for a message before looking whether the worker still runs."""
        if self.deadline is None and self.stall_timeout is None:
            return _LIVENESS
        wait = _LIVENESS if self.deadline is None else min(self.left() or 0.0, _LIVENESS)
        if self.stall_timeout is None:
            return wait
        stalls = self.progressed + self.stall_timeout - time.monotonic()
        return min(wait, max(0.0, stalls))


class Reply:
    """A successful reply: its fields, and the decoder for the user data in them."""

    __slots__ = ("decoder", "fields")

    def __init__(self, fields: dict[str, Any], decoder: Decoder) -> None:
        self.fields = fields
        self.decoder = decoder

    def required(self, name: str) -> Any:
        """A field that every such reply has.

        Raises:
            ProtocolError: ``malformed``: it is not there.
        """
        try:
            return self.fields[name]
        except KeyError:
            text = f"the worker's reply has no field {name!r}; is it a soma worker?"
            raise ProtocolError(ErrorCode.MALFORMED, text) from None

    def data(self, name: str) -> Any:
        """A field of user data as a Python object; None if it is absent."""
        wire = self.fields.get(name)
        return wire if type(wire) is ndarray else self.decoder.decode(wire)

    def state(self, name: str) -> Any:
        """A field that holds a state."""
        return self.decoder.state(self.fields.get(name))

    def states(self, name: str) -> dict[str, Any]:
        """A field that holds states by node id."""
        wire = self.fields.get(name) or {}
        return {node_id: self.decoder.state(state) for node_id, state in wire.items()}

    def binary(self, name: str) -> bytes:
        """A field that holds bytes."""
        return bytes(self.decoder.binary(self.required(name)))

    def binaries(self, name: str) -> dict[str, bytes]:
        """A field that holds bytes by node id."""
        wire = self.fields.get(name) or {}
        return {node_id: bytes(self.decoder.binary(data)) for node_id, data in wire.items()}
