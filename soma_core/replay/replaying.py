"""Replaying: the commands of a recording again, byte for byte, over any transport."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from soma_core.channel.contract import Channel, Transport
from soma_core.channel.deadline import Deadline
from soma_core.client.recording.entries import LeftOut, Section, message_fields
from soma_core.errors import ChannelClosed, ErrorCode, ProtocolError
from soma_core.replay.comparing import difference
from soma_core.replay.reading import RecordedCall, read_calls
from soma_core.wire.message import Message

_LOOK = 0.25  # seconds between looks at whether the worker still runs
_GRACE = 2.0
_CHANGES_NOTHING = frozenset(
    {"FORWARD", "CALL_METHOD", "COMPOSITE_FORWARD", "GET_STATE", "GET_GRADIENTS", "LIST", "PING"}
)


class Verdict(StrEnum):
    """What came of a command when it was run again."""

    SAME = "same"
    DIFFERENT = "different"
    FAILED = "failed"
    """No reply came, though one is recorded."""
    NOT_RUN = "not run"
    NOT_COMPARED = "not compared"
    """No reply is recorded, since the host ended first; or pickles differ, which are not read."""


class Outcome(NamedTuple):
    """One command of a replay.

    Attributes:
        n: Its entry.
        cmd: The name of the command.
        node_ids: The nodes that it is about.
        verdict: What came of it.
        detail: How it differs, or why it did not run; empty if there is nothing to say.
        skipped: How many entries before it are not in the file: a ring had forgotten them.
    """

    n: int
    cmd: str
    node_ids: list[str]
    verdict: Verdict
    detail: str = ""
    skipped: int = 0


def replay(
    path: Path,
    new_transport: Callable[[Section], Transport],
    *,
    only: int | None = None,
    start_timeout: float | None = 60.0,
    timeout: float | None = None,
) -> Generator[Outcome, None, None]:
    """Run the commands of a recording again and compare the replies.

    **This runs the pickles in the recording in the worker**: replay only what you trust.

    Args:
        path: The recording.
        new_transport: Makes a transport that was not started, for each section that is run.
        only: The entry of one command. The commands before it in its section that change what
            the worker holds run first: all but FORWARD, COMPOSITE_FORWARD, GET_STATE,
            GET_GRADIENTS, LIST and PING.
        start_timeout: Seconds in which a worker must come up.
        timeout: Seconds that each command may take; None waits for ever.

    Raises:
        ProtocolError: It is not a recording, or has no command, or no such one.
        OSError: It cannot be read.
        StartFailed: A worker did not come up.
    """
    chosen = read_calls(path) if only is None else _needed(path, only)
    stage = _Stage(new_transport, start_timeout, timeout)
    try:
        last = 0
        for call in chosen:
            if call.number != last:
                stage.clear()
                last = call.number
            verdict, detail = stage.run(call)
            n, skipped = call.command.n, call.skipped
            yield Outcome(n, call.cmd, call.node_ids, verdict, detail, skipped)
        if not last:
            raise ProtocolError(ErrorCode.MALFORMED, f"{path} holds no command")
    finally:
        stage.clear()


def _needed(path: Path, only: int) -> Iterator[RecordedCall]:
    """The command of an entry, after those that it builds on.

    Raises:
        ProtocolError: There is no such command.
    """
    number = _section_of(path, only)
    for call in read_calls(path):
        n = call.command.n
        if call.number == number and (n == only or call.cmd not in _CHANGES_NOTHING):
            yield call
        if n == only:
            return


def _section_of(path: Path, only: int) -> int:
    last = 0
    for call in read_calls(path):
        last = call.command.n
        if last == only:
            return call.number
    raise ProtocolError(
        ErrorCode.MALFORMED,
        f"{path} has no command at entry {only}; its last command is entry {last}",
    )


class _Gone(Exception):
    """No reply will come; says why."""


class _Stage:
    """The worker that the commands of one section run in."""

    def __init__(
        self,
        new_transport: Callable[[Section], Transport],
        start_timeout: float | None,
        timeout: float | None,
    ) -> None:
        self._new_transport = new_transport
        self._start_timeout = start_timeout
        self._timeout = timeout
        self._transport: Transport | None = None
        self._channel: Channel | None = None
        self._gone = ""

    def clear(self) -> None:
        """End the worker, if there is one; the next command starts another."""
        if self._channel is not None:
            self._channel.close()
        if self._transport is not None:
            self._transport.stop(_GRACE)
        self._transport, self._channel, self._gone = None, None, ""

    def run(self, call: RecordedCall) -> tuple[Verdict, str]:
        """Run a command and judge what comes back."""
        if self._gone:
            return Verdict.NOT_RUN, f"the worker is gone: {self._gone}"
        missing = [b for b in call.command.message.buffers if isinstance(b, LeftOut)]
        if missing:
            size = sum(buffer.size for buffer in missing)
            return Verdict.NOT_RUN, f"{size:,} bytes of the command were left out of the recording"
        transport, channel = self._started(call.section)
        try:
            reply = self._ask(transport, channel, call.command.message)
        except _Gone as gone:
            self._gone = str(gone)
            return _without_reply(call, self._gone)
        return _with_reply(call, reply)

    def _started(self, section: Section) -> tuple[Transport, Channel]:
        if self._transport is None or self._channel is None:
            self._transport = self._new_transport(section)
            self._channel = self._transport.start(self._start_timeout)
        return self._transport, self._channel

    def _ask(self, transport: Transport, channel: Channel, command: Message) -> Message:
        """Send a command and wait for its reply.

        Raises:
            _Gone: None will come.
        """
        end = Deadline.after(self._timeout)
        try:
            buffers = [bytearray(buffer) for buffer in command.buffers]  # writable ones
            channel.send(command._replace(buffers=buffers), self._timeout)
            while True:
                ended = transport.poll()
                with suppress(TimeoutError):
                    reply = channel.receive(_LOOK)
                    if "event" not in message_fields(reply):
                        return reply
                    continue
                if ended is not None:
                    raise _Gone(f"the worker {ended}")
                if end.over():
                    raise TimeoutError
        except TimeoutError:
            raise _Gone(f"no reply within {self._timeout:g} s") from None
        except (ChannelClosed, ProtocolError) as error:
            raise _Gone(_why(transport, error)) from None


def _why(transport: Transport, error: Exception) -> str:
    end = Deadline.after(1.0)
    while (status := transport.poll()) is None and not end.over():
        time.sleep(0.01)
    return f"the worker {status}" if status is not None else str(error)


def _recorded_error(call: RecordedCall) -> str:
    """The error that the host got in place of a reply; empty if none is recorded."""
    if call.failure is None:
        return ""
    fields = message_fields(call.failure.message)
    return f"{fields.get('type')}: {str(fields.get('error')).partition(';')[0]}"


def _without_reply(call: RecordedCall, why: str) -> tuple[Verdict, str]:
    if call.reply is not None:
        return Verdict.FAILED, why
    recorded = _recorded_error(call)
    if not recorded:
        return Verdict.NOT_COMPARED, f"no reply is recorded; now {why}"
    return (Verdict.SAME, why) if why in recorded else (Verdict.DIFFERENT, f"{recorded}; now {why}")


def _with_reply(call: RecordedCall, reply: Message) -> tuple[Verdict, str]:
    if call.reply is not None:
        found = difference(call.reply.message, reply)
        if found is None:
            return Verdict.SAME, ""
        return Verdict.DIFFERENT if found.certain else Verdict.NOT_COMPARED, found.text
    recorded = _recorded_error(call)
    now = "a reply came" if message_fields(reply).get("ok") is True else "an error came"
    if recorded:
        return Verdict.DIFFERENT, f"{recorded}; now {now}"
    return Verdict.NOT_COMPARED, f"no reply is recorded; now {now}"
