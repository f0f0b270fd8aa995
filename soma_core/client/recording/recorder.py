"""Recorder: writes what goes over a worker's channel, and tells errors where it is."""

from __future__ import annotations

import logging
import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soma_core.channel.contract import Channel, TransportOptions
from soma_core.channel.watchable import Descriptors, WatchableChannel
from soma_core.client.recording.entries import Direction, Entry, Section, message_fields
from soma_core.client.recording.files import RecordingFile, RecordingFull, check_replaceable
from soma_core.client.recording.ring import Ring
from soma_core.errors import ChannelClosed, SomaError, TransportError
from soma_core.protocol.versions import client_info
from soma_core.wire.json_text import write_json
from soma_core.wire.message import Dialect, Message

_log = logging.getLogger("soma.recording")

_LIMIT = 1 << 30
_REMEMBERED = 256  # commands whose entries an error may still have to name


@dataclass(frozen=True)
class Recording:
    """Where and how the commands and replies of a worker are recorded.

    The file holds the user's data, its pickles too: it is readable by its owner alone. What it
    may take is bounded: large buffers that do not fit are left out, with their size and SHA-256,
    and when nothing fits any more the recording ends with a warning in the log.

    Args:
        path: The file. A recording that is there already becomes ``path.1``; anything else that
            is there is refused and left as it is.
        last: Keep this many exchanges in memory, and write them only when something went wrong: a
            worker that died, a deadline that passed, a command that failed. Kept beside those
            are, of each node, the newest LOAD and the newest command that gave it a state. None
            writes everything at once.
        limit: The most bytes of the file, and of the memory for ``last``.

    Raises:
        TypeError: ``path`` is none.
        ValueError: ``last`` or ``limit`` is less than 1.
    """

    path: str | os.PathLike[str]
    last: int | None = None
    limit: int = _LIMIT

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike):
            raise TypeError(f"record is a path or a Recording, got {self.path!r}")
        for name in ("last", "limit"):
            amount = getattr(self, name)
            if amount is not None and amount < 1:
                raise ValueError(f"record: {name} is at least 1, got {amount}")


class Recorder:
    """Records the channels of one worker, one after the other. Never breaks a call.

    Args:
        record: A path, or a Recording.
        transport: The name of the transport, for the file.
        options: The transport's options; secrets in them are not written.

    Raises:
        ValueError: The file cannot be written, or something else is there.
    """

    def __init__(
        self, record: str | os.PathLike[str] | Recording, transport: str, options: TransportOptions
    ) -> None:
        recording = record if isinstance(record, Recording) else Recording(record)
        self.path = Path(recording.path).absolute()
        self._limit = recording.limit
        self._transport = transport
        self._options = _without_secrets(options.model_dump(exclude_defaults=True))
        self._lock = threading.Lock()
        self._stopped = False
        self._last_n = 0
        self._command = 0
        self._failed = 0
        self._explained = False
        self._numbers: dict[Any, int] = {}
        self._section: Section | None = None
        self._file: RecordingFile | None = None
        self._ring: Ring | None = None
        if recording.last is None:
            self._file = RecordingFile(self.path, self._limit)
        else:
            self._ring = Ring(recording.last, self._limit)
            check_replaceable(self.path)

    def over(self, channel: Channel) -> Channel:
        """The same channel, recorded; a new section of the file begins."""
        self._guarded(self._begin)
        if isinstance(channel, WatchableChannel):
            return _WatchableRecordingChannel(channel, self)
        return _RecordingChannel(channel, self)

    def sent(self, message: Message) -> None:
        """Record a command, before it is sent: it may be the last."""
        self._guarded(lambda: self._add_command(message))

    def received(self, message: Message) -> None:
        """Record what came back, before the receiver can change its buffers."""
        self._guarded(lambda: self._add_answer(message))

    def explain(self, error: SomaError, message_id: Any) -> None:
        """Add to the error of a call where the call is recorded, if it is."""
        self._guarded(lambda: self._explain(error, message_id))

    def keep(self) -> None:
        """The error that was explained is the user's to see: write what was only in memory."""
        self._guarded(self._drain)

    def close(self) -> None:
        """End the recording; a second call does nothing."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        self._stopped = True
        self._ring = None
        if self._file is not None:
            self._file.close()

    def _guarded(self, action: Callable[[], None]) -> None:
        with self._lock:
            if self._stopped:
                return
            try:
                action()
            except Exception as error:
                self._stop()
                self._warn(error)

    def _warn(self, error: Exception) -> None:
        if isinstance(error, RecordingFull):
            reason = f"it has reached its limit of {self._limit:,} bytes"
        else:
            reason = f"{type(error).__name__}: {error}"
        _log.warning("the recording %s ends here, the worker goes on: %s", self.path, reason)

    def _begin(self) -> None:
        versions = client_info("soma_core").model_dump(exclude={"name"})
        if self._ring is not None:
            self._ring.drain()  # what an earlier channel did is no part of this one's section
        self._numbers.clear()
        self._section = Section(
            time=time.time(), transport=self._transport, options=self._options, **versions
        )
        if self._ring is None:
            self._write_section()

    def _write_section(self) -> None:
        if self._file is None:
            self._file = RecordingFile(self.path, self._limit)
        if self._section is not None:
            self._file.begin(self._section)
            self._section = None

    def _add_command(self, message: Message) -> None:
        fields = message_fields(message)
        self._command = self._last_n + 1
        self._remember(fields.get("id"), self._command)
        self._add(Direction.COMMAND, message, fields)

    def _remember(self, message_id: Any, n: int) -> None:
        self._numbers[message_id if isinstance(message_id, int | str) else None] = n
        if len(self._numbers) > _REMEMBERED:
            del self._numbers[next(iter(self._numbers))]

    def _add_answer(self, message: Message) -> None:
        fields = message_fields(message)
        direction = Direction.EVENT if "event" in fields else Direction.REPLY
        self._add(direction, message, fields)

    def _add(self, direction: Direction, message: Message, fields: dict[str, Any]) -> None:
        self._last_n += 1
        entry = Entry(self._last_n, direction, self._command, time.time(), message)
        if self._ring is not None:
            self._ring.add(entry, fields)
        elif self._file is not None:
            self._file.add(entry)

    def _explain(self, error: SomaError, message_id: Any) -> None:
        n = self._numbers.get(message_id)
        if n is None or isinstance(error, ChannelClosed):  # which the host asked for
            return
        self._explained = True
        if isinstance(error, TransportError) and n != self._failed:
            self._failed = n  # a dead worker is reported again at each later call
            told = {"type": type(error).__name__, "error": str(error)}
            self._add(Direction.FAILURE, Message(write_json(told), (), Dialect.LINE), told)
        path = shlex.quote(str(self.path))
        error.add_note(f"recorded as entry {n} of {self.path}; soma replay {path} --only {n}")

    def _drain(self) -> None:
        if self._ring is None or not self._explained:
            return
        self._explained = False
        entries = self._ring.drain()
        if entries:
            self._write_section()
        for entry in entries:
            if self._file is not None:
                self._file.add(entry)


class _RecordingChannel(Channel):
    """Records what another channel carries.

    A reply is given out even if Ctrl-C came while it was being recorded: at the next receive.
    """

    def __init__(self, channel: Channel, recorder: Recorder) -> None:
        self._channel = channel
        self._recorder = recorder
        self._held: Message | None = None

    def send(self, message: Message, timeout: float | None = None) -> None:
        self._recorder.sent(message)
        self._channel.send(message, timeout)

    def receive(self, timeout: float | None = None) -> Message:
        held, self._held = self._held, None
        if held is not None:
            return held
        message = self._held = self._channel.receive(timeout)
        self._recorder.received(message)
        self._held = None
        return message

    def close(self) -> None:
        self._channel.close()

    @property
    def closed(self) -> bool:
        return self._channel.closed

    @property
    def unread(self) -> bytes:
        return self._channel.unread


class _WatchableRecordingChannel(_RecordingChannel, WatchableChannel):
    """The same of a channel that an event loop can watch."""

    _channel: WatchableChannel

    @property
    def descriptors(self) -> Descriptors | None:
        return self._channel.descriptors

    def send_now(self, *messages: Message) -> bool:
        for message in messages:
            self._recorder.sent(message)
        return self._channel.send_now(*messages)

    def flush_now(self) -> bool:
        return self._channel.flush_now()

    def receive_now(self) -> Message | None:
        message = self._channel.receive_now()
        if message is not None:
            self._recorder.received(message)
        return message

    @property
    def has_more(self) -> bool:
        return self._channel.has_more


_HIDDEN = "(not recorded)"
_SECRET_NAME = re.compile("secret|token|password|passwd|credential|key|auth", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def _without_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they may be written: of mappings, such as an environment, the names alone."""
    return {
        name: _HIDDEN if _SECRET_NAME.search(name) else _harmless(option)
        for name, option in options.items()
    }


def _harmless(option: Any) -> Any:
    if isinstance(option, bool | int | float | None):
        return option
    if isinstance(option, str | os.PathLike):
        return _USER_IN_URL.sub(_HIDDEN, os.fspath(option))
    if isinstance(option, Mapping):
        return dict.fromkeys(map(str, option), _HIDDEN)
    if isinstance(option, list | tuple):
        return [_harmless(item) for item in option]
    return _HIDDEN
