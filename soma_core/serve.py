"""Serving: a channel, an engine, and the one place where an exception becomes a reply."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, Literal

from soma_core import progress
from soma_core.discovery import installed_filters
from soma_core.engine import Engine, EngineInfo, FilterFailed
from soma_core.errors import ChannelClosed, ErrorCode, ProtocolError
from soma_core.parser import StreamLimits
from soma_core.plugins import installed_plugins
from soma_core.protocol.codec import MAX_NESTING, Decoder, Encoder, FrameEncoder, LineEncoder
from soma_core.protocol.commands import Command, Shutdown
from soma_core.protocol.fields import encode_fields
from soma_core.protocol.frames import FrameError
from soma_core.protocol.parsing import CommandParser, Envelope
from soma_core.protocol.pickles import Pickles
from soma_core.protocol.replies import (
    CompositeFitReply,
    CompositeForwardReply,
    ErrorReply,
    Event,
    Limits,
)
from soma_core.protocol.text import read_json, write_json
from soma_core.transport import Channel, Dialect, Message

__all__ = ["Responder", "serve"]

PicklePolicy = Literal["same-user", "never"]
Execute = Callable[[Engine, Command], Any]


def serve(
    channel: Channel, *, limits: StreamLimits | None = None, pickle: PicklePolicy = "same-user"
) -> None:
    """Answer every message of a channel, until SHUTDOWN or the end of the channel.

    A daemon calls this on the main thread of its process: interrupts work there only.

    Args:
        channel: Where the commands come from; closed at the end.
        limits: What HELLO says of the largest messages; give the channel the same.
        pickle: Whether pickles are made and read: the option of the same name.
    """
    pickles = Pickles(allowed=pickle != "never")
    interruptible = _Interruptible()
    interruptible.arm()
    responder = Responder(limits=limits, pickles=pickles, execute=interruptible)
    try:
        while not responder.finished:
            try:
                message = channel.receive()
            except ProtocolError as error:
                channel.send(responder.refuse(error))
            else:
                channel.send(responder.respond(message, channel.send))
    except ChannelClosed:
        pass  # the host is gone, or has said all that it had to say
    finally:
        channel.close()


def _execute(engine: Engine, command: Command) -> Any:
    return engine.execute(command)


class Responder:
    """Turns each message into exactly one reply.

    Args:
        limits: What HELLO says of the largest messages.
        pickles: Whether pickles are made and read.
        execute: Runs a command; the default calls the engine.

    Attributes:
        engine: The engine that it drives.
        finished: Whether SHUTDOWN was answered.
    """

    def __init__(
        self,
        *,
        limits: StreamLimits | None = None,
        pickles: Pickles | None = None,
        execute: Execute = _execute,
    ) -> None:
        self._pickles = pickles or Pickles()
        self._parser = CommandParser()
        limits = limits or StreamLimits()
        info = EngineInfo(
            commands=tuple(self._parser.models),
            features=("lines", "frames", "events"),
            limits=Limits(line=limits.line, header=limits.header, nesting=MAX_NESTING),
        )
        self.engine = Engine(installed_filters(), info, self._pickles, installed_plugins())
        self.finished = False
        self._execute = execute

    def respond(self, message: Message, send_event: Callable[[Message], None]) -> Message:
        """Execute the command in a message and return the reply to send.

        Args:
            message: The message, whatever it holds.
            send_event: Sends a progress event, if the command asked for them.
        """
        try:
            decoder = Decoder(message.buffers, pickles=self._pickles)
            command = self._parser.parse(message.header, decoder)
        except BaseException as error:
            return self._failure(error, _envelope(message), message.dialect)
        try:
            return self._reply(command, message.dialect, send_event)
        except BaseException as error:
            envelope = Envelope.of(command.__dict__)
            return self._failure(error, envelope, message.dialect)

    def refuse(self, error: ProtocolError) -> Message:
        """The reply to what was not even a message, in the dialect that it started in."""
        dialect = Dialect.FRAME if isinstance(error, FrameError) else Dialect.LINE
        return self._failure(error, Envelope(), dialect)

    def _reply(
        self, command: Command, dialect: Dialect, send_event: Callable[[Message], None]
    ) -> Message:
        if command.events:
            with progress.listening(_EventSender(command, dialect, send_event)):
                reply = self._execute(self.engine, command)
        else:
            reply = self._execute(self.engine, command)
        encoder = self._encoder(reply, dialect)
        fields = encode_fields(reply, encoder)
        if command.id is not None:
            fields["id"] = command.id
        self.finished = type(command) is Shutdown
        return _message(fields, encoder, dialect)

    def _encoder(self, reply: Any, dialect: Dialect) -> Encoder:
        if dialect is Dialect.FRAME:
            return FrameEncoder(pickles=self._pickles)
        composite = isinstance(reply, CompositeForwardReply | CompositeFitReply)
        return LineEncoder(pickles=self._pickles, tensors_as_lists=composite)

    def _failure(self, error: BaseException, envelope: Envelope, dialect: Dialect) -> Message:
        """Where every exception becomes a reply."""
        code, cause, node_id = _classify(error)
        fields: dict[str, Any] = {
            "error": _text(cause),
            "code": code,
            "type": getattr(cause, "remote_type", None) or type(cause).__name__,
            "id": envelope.id,
            "cmd": envelope.cmd,
            "node_id": node_id or envelope.node_id,
        }
        if code in _WITH_TRACEBACK:
            fields["traceback"] = "".join(traceback.format_exception(cause))
        reply = ErrorReply(**{name: field for name, field in fields.items() if field is not None})
        encoder = LineEncoder()
        return _message(encode_fields(reply, encoder), encoder, dialect)


_WITH_TRACEBACK = frozenset(
    {
        ErrorCode.LOAD_FAILED,
        ErrorCode.FILTER_FAILED,
        ErrorCode.INTERRUPTED,
        ErrorCode.INTERNAL,
    }
)


def _text(cause: BaseException) -> str:
    try:
        return str(cause) or type(cause).__name__
    except Exception:  # it is the user's class, and its __str__ may fail as well
        return type(cause).__name__


def _classify(error: BaseException) -> tuple[ErrorCode, BaseException, str | None]:
    """The code of an exception, the exception to show, and the node that it is about."""
    if isinstance(error, FilterFailed):
        return ErrorCode.FILTER_FAILED, error.cause, error.node_id
    if isinstance(error, ProtocolError):
        return error.code, error, error.node_id
    if isinstance(error, KeyboardInterrupt):
        return ErrorCode.INTERRUPTED, error, None
    return ErrorCode.INTERNAL, error, None


def _envelope(message: Message) -> Envelope:
    try:
        return Envelope.of(read_json(message.header))
    except ProtocolError:
        return Envelope()


def _message(fields: dict[str, Any], encoder: Encoder, dialect: Dialect) -> Message:
    return Message(write_json(fields), getattr(encoder, "buffers", ()), dialect)


class _EventSender:
    """Sends what a filter reports as events of the command that runs."""

    def __init__(self, command: Command, dialect: Dialect, send: Callable[[Message], None]) -> None:
        self._command, self._dialect, self._send = command, dialect, send

    def __call__(self, data: dict[str, Any]) -> None:
        frame = self._dialect is Dialect.FRAME
        encoder: Encoder = FrameEncoder() if frame else LineEncoder()
        command: Any = self._command
        event = Event(event="progress", cmd=command.cmd, data=encoder.encode(data))
        if command.id is not None:
            event.id = command.id
        self._send(_message(encode_fields(event, encoder), encoder, self._dialect))


# Once per command, and three times as fast without the conversion to and from enums.
_set_handler = getattr(signal.signal, "__wrapped__", signal.signal)


class _Interruptible:
    """Executes commands so that SIGINT ends the one that runs, and nothing else.

    The handler looks at what it interrupted: it raises only inside of ``__call__``'s call of
    the engine. So there is no flag to set at the right moment, and no moment to miss.
    """

    def __init__(self) -> None:
        self._on_main_thread = threading.current_thread() is threading.main_thread()

    def arm(self) -> None:
        """Install the handler; outside of a command it ignores the signal."""
        if self._on_main_thread:
            _set_handler(signal.SIGINT, _interrupt)

    def __call__(self, engine: Engine, command: Command) -> Any:
        self.arm()  # again each time: a filter may have set a handler of its own
        return _run_interruptible(engine, command)


def _run_interruptible(engine: Engine, command: Command) -> Any:
    return engine.execute(command)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    below = frame
    while below is not None:
        caller = below.f_back
        if caller is not None and caller.f_code is _run_interruptible.__code__:
            raise KeyboardInterrupt("the host interrupted the command")
        below = caller
