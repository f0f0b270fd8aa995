"""Serving: a channel, an engine, and the one place where an exception becomes a reply."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any, Literal

from soma_core import progress
from soma_core.channel.contract import Channel
from soma_core.engine import Engine, EngineInfo, FilterFailed
from soma_core.engine.interrupts import Interrupts, NoInterrupts
from soma_core.engine.recurring_replies import composite_fit_reply, forward_reply
from soma_core.errors import ChannelClosed, ErrorCode, ProtocolError
from soma_core.plugins.catalog import installed_filters
from soma_core.plugins.manager import installed_plugins, known_codecs, known_commands
from soma_core.protocol.commands import Command, Shutdown
from soma_core.protocol.fields import encode_fields
from soma_core.protocol.parsing import CommandParser, Envelope, verb_of
from soma_core.protocol.replies import (
    CompositeFitReply,
    CompositeForwardReply,
    ErrorReply,
    Event,
    ForwardReply,
    Limits,
    Reply,
)
from soma_core.wire.codec import MAX_NESTING, Encoder, FrameEncoder, LineEncoder
from soma_core.wire.frames import FrameError
from soma_core.wire.json_text import read_json, write_json
from soma_core.wire.message import Dialect, Message
from soma_core.wire.parser import StreamLimits
from soma_core.wire.pickles import Pickles

__all__ = ["Responder", "serve"]

PicklePolicy = Literal["same-user", "never"]
Watch = Callable[[str, str | None], None]


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
    pickles = Pickles(allowed=pickle != "never", codecs=known_codecs())
    interrupts = Interrupts()
    interrupts.arm()
    responder = Responder(limits=limits, pickles=pickles, interrupts=interrupts)
    try:
        while not responder.finished:
            try:
                message = channel.receive()
            except ProtocolError as error:
                channel.send(responder.refuse(error))
            else:
                reply = responder.respond(message, channel.send)
                del message  # the memory that it lent is free before the host sends the next one
                channel.send(reply)
    except ChannelClosed:
        pass  # the host is gone, or has said all that it had to say
    finally:
        channel.close()


class Responder:
    """Turns each message into exactly one reply.

    Args:
        limits: What HELLO says of the largest messages.
        pickles: Whether pickles are made and read.
        interrupts: How a command that runs is interrupted.
        watch: Called with the verb and the node of each command before it is executed, within
            what an interrupt ends.

    Attributes:
        engine: The engine that it drives.
        finished: Whether SHUTDOWN was answered.
    """

    def __init__(
        self,
        *,
        limits: StreamLimits | None = None,
        pickles: Pickles | None = None,
        interrupts: NoInterrupts | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._pickles = pickles or Pickles(codecs=known_codecs())
        self._parser = CommandParser(known_commands())
        limits = limits or StreamLimits()
        info = EngineInfo(
            commands=tuple(self._parser.models),
            features=("lines", "frames", "events"),
            limits=Limits(line=limits.line, header=limits.header, nesting=MAX_NESTING),
        )
        self.engine = Engine(installed_filters(), info, self._pickles, installed_plugins())
        self.finished = False
        self._interrupts = interrupts or NoInterrupts()
        self._watch = watch
        unseen = watch is None and not self.engine.is_observed
        self._shortcut = self._forward if unseen else None

    @classmethod
    def for_policy(
        cls, pickle: PicklePolicy, interrupts: NoInterrupts, watch: Watch | None = None
    ) -> Responder:
        """One that keeps to a transport's option ``pickle``."""
        pickles = Pickles(allowed=pickle != "never", codecs=known_codecs())
        return cls(pickles=pickles, interrupts=interrupts, watch=watch)

    def respond(self, message: Message, send_event: Callable[[Message], None]) -> Message:
        """Execute the command in a message and return the reply to send.

        Args:
            message: The message, whatever it holds.
            send_event: Sends a progress event, if the command asked for them.
        """
        header, buffers, dialect = message
        try:
            recognised = self._parser.recognise(header, buffers)
            if recognised is not None and recognised[0].is_plain_forward and self._shortcut:
                return self._shortcut(recognised[1], dialect)
            command = self._parser.read(header, buffers, self._pickles, recognised)
        except BaseException as error:
            return self._failure(error, _envelope(message), dialect)
        try:
            return self._reply(command, dialect, send_event)
        except BaseException as error:
            return self._failure(error, Envelope.of(command.__dict__), dialect)

    def refuse(self, error: ProtocolError) -> Message:
        """The reply to what was not even a message, in the dialect that it started in."""
        dialect = Dialect.FRAME if isinstance(error, FrameError) else Dialect.LINE
        return self._failure(error, Envelope(), dialect)

    def decline(self, message: Message, error: ProtocolError) -> Message:
        """The reply to a message that is not executed, for a reason of who serves it."""
        return self._failure(error, _envelope(message), message.dialect)

    def _forward(self, fields: dict[str, Any], dialect: Dialect) -> Message:
        """Execute a FORWARD as most are: of a header known already, with nothing but data, and
        with nobody who takes part in it. Then no model of it needs to be made."""
        result = self._interrupts.run(self.engine.run_node, fields)
        message_id = fields["id"]
        if dialect is _FRAME:
            message = forward_reply(result, message_id)
            if message is not None:
                return message
        return self._encode(ForwardReply.of(result=result), message_id, dialect)

    def _reply(
        self, command: Command, dialect: Dialect, send_event: Callable[[Message], None]
    ) -> Message:
        if command.events:
            reply = self._execute_with_events(command, dialect, send_event)
        else:
            reply = self._interrupts.run(self._execute, command)
        self.finished = type(command) is Shutdown
        return self._encode(reply, command.id, dialect)

    def _execute(self, command: Command) -> Reply:
        if self._watch is not None:
            self._watch(verb_of(type(command)), getattr(command, "node_id", None))
        return self.engine.execute(command)

    def _encode(self, reply: Reply, message_id: str | int | None, dialect: Dialect) -> Message:
        if dialect is _FRAME and type(reply) is CompositeFitReply and _has_trained_alone(reply):
            message = composite_fit_reply(reply.result, reply.loss, message_id)
            if message is not None:
                return message
        as_lists = type(reply) in _WITH_TENSORS_AS_LISTS
        encoder = _encoder(dialect, self._pickles, tensors_as_lists=as_lists)
        fields = _encoded(reply, encoder)
        if message_id is not None:
            fields["id"] = message_id
        return _message(fields, encoder, dialect)

    def _execute_with_events(
        self, command: Command, dialect: Dialect, send_event: Callable[[Message], None]
    ) -> Reply:
        def send(message: Message) -> None:
            self._interrupts.shield(lambda: send_event(message))

        sender = _EventSender(command, dialect, self._pickles, send)
        try:
            with progress.listening(sender):
                return self._interrupts.run(self._execute, command)
        finally:
            sender.end()

    def _failure(self, error: BaseException, envelope: Envelope, dialect: Dialect) -> Message:
        """Where every exception becomes a reply."""
        code, cause, node_id = _classify(error)
        fields: dict[str, Any] = {
            "error": _text(cause),
            "code": code,
            "type": _type_name(cause),
            "id": envelope.id,
            "cmd": envelope.cmd,
            "node_id": node_id or envelope.node_id,
        }
        if code in _WITH_TRACEBACK:
            fields["traceback"] = _traceback(cause)
        reply = ErrorReply(**{name: field for name, field in fields.items() if field is not None})
        encoder = LineEncoder()
        return _message(encode_fields(reply, encoder), encoder, dialect)


_TRAINED_ALONE = frozenset({"ok", "result", "states", "loss"})


def _has_trained_alone(reply: CompositeFitReply) -> bool:
    """Whether it brings a result and a loss, and nothing that was learned."""
    return not reply.states and reply.__pydantic_fields_set__ == _TRAINED_ALONE


_WITH_TENSORS_AS_LISTS = frozenset({CompositeForwardReply, CompositeFitReply})
_FRAME = Dialect.FRAME
_WITH_TRACEBACK = frozenset(
    {
        ErrorCode.LOAD_FAILED,
        ErrorCode.FILTER_FAILED,
        ErrorCode.INTERRUPTED,
        ErrorCode.INTERNAL,
    }
)


def _type_name(cause: BaseException) -> str:
    named = cause.remote_type if isinstance(cause, ProtocolError) else None
    return named or type(cause).__name__


# The exception is of the user's class, and saying what it is may fail in any way as well.


def _text(cause: BaseException) -> str:
    try:
        return str(cause) or type(cause).__name__
    except BaseException:
        return type(cause).__name__


def _traceback(cause: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(cause))
    except BaseException:
        return "".join(traceback.format_tb(cause.__traceback__))


def _encoded(reply: Reply, encoder: Encoder) -> dict[str, Any]:
    """The fields of a reply in wire form.

    Raises:
        ProtocolError: ``filter_failed`` where the result does not pickle, ``pickle_refused``
            where it may not: the command was executed, so that neither must read as if it had
            been refused.
    """
    try:
        return encode_fields(reply, encoder)
    except ProtocolError as error:
        unpicklable = error.code is ErrorCode.INVALID_COMMAND
        raise ProtocolError(
            ErrorCode.FILTER_FAILED if unpicklable else error.code,
            f"the command was executed, and its result cannot be sent: {error}",
            remote_type=error.remote_type,
        ) from error


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
    """Sends what a filter reports as events of the command that runs, while it runs.

    Args:
        command: The command.
        dialect: Its dialect.
        pickles: Whether objects in a report may be pickled.
        send: Sends one event; an interrupt must not cut it in two.
    """

    def __init__(
        self,
        command: Command,
        dialect: Dialect,
        pickles: Pickles,
        send: Callable[[Message], None],
    ) -> None:
        self._command: Any = command
        self._dialect, self._pickles, self._send = dialect, pickles, send
        self._lock = threading.RLock()
        self._running = True

    def __call__(self, data: dict[str, Any]) -> None:
        encoder = _encoder(self._dialect, self._pickles)
        event = Event(event="progress", cmd=self._command.cmd, data=encoder.encode(data))
        if self._command.id is not None:
            event.id = self._command.id
        message = _message(encode_fields(event, encoder), encoder, self._dialect)
        with self._lock:  # a filter may report from a thread of its own
            if self._running:
                self._send(message)

    def end(self) -> None:
        """The command has ended: a late report of a thread is dropped."""
        with self._lock:
            self._running = False


def _encoder(dialect: Dialect, pickles: Pickles, *, tensors_as_lists: bool = False) -> Encoder:
    if dialect is _FRAME:
        return FrameEncoder(pickles=pickles)
    return LineEncoder(pickles=pickles, tensors_as_lists=tensors_as_lists)
