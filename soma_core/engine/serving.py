"""Serving: a channel, an engine, and the one place where an exception becomes a reply."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any, Literal, NoReturn

from pydantic import BaseModel

from soma_core import progress
from soma_core.channel.contract import Channel
from soma_core.channel.signalled import error_of_handler
from soma_core.engine.engine import OF_CHAINS, Engine, EngineInfo
from soma_core.engine.failures import describe_failure, note_executed
from soma_core.engine.inbox import Inbox
from soma_core.engine.interrupts import Interrupts, NoInterrupts
from soma_core.engine.loading import FilterRegistry
from soma_core.engine.nodes import FilterFailed
from soma_core.engine.profiling import profiled
from soma_core.engine.records import Host, RecordForwarder
from soma_core.errors import ChannelClosed, ErrorCode, PluginError, ProtocolError
from soma_core.models.filters import FilterMeta
from soma_core.plugins.catalog import installed_filters
from soma_core.plugins.manager import PluginSet, installed_plugins
from soma_core.protocol.commands import COMMANDS, Command, Hello, Interrupt, Shutdown
from soma_core.protocol.dialects import DialectCodec, FrameCodec, LineCodec
from soma_core.protocol.parsing import CommandParser, Envelope, name_of_command
from soma_core.protocol.replies import (
    REPLIES,
    ErrorReply,
    Event,
    EventKind,
    InterruptReply,
    Limits,
    Reply,
)
from soma_core.protocol.versions import PROTOCOL_VERSION, client_info
from soma_core.wire.frames import FrameError
from soma_core.wire.line_codec import MAX_NESTING
from soma_core.wire.message import Dialect, Message
from soma_core.wire.parser import StreamLimits
from soma_core.wire.pickles import Pickles

PicklePolicy = Literal["same-user", "never"]
Watch = Callable[[str, str | None], None]
SendEvent = Callable[[Message], None]

_log = logging.getLogger("soma.engine")
_FEATURES = ("lines", "frames", "events", "encoding", "log_levels")


def serve(
    channel: Channel,
    *,
    limits: StreamLimits | None = None,
    pickle: PicklePolicy = "same-user",
    plugins: PluginSet | None = None,
) -> None:
    """Answer every message of a channel, until SHUTDOWN or the end of the channel.

    A daemon calls this on the main thread of its process: interrupts work there only.

    Args:
        channel: Where the commands come from; closed at the end.
        limits: What HELLO says of the largest messages; give the channel the same.
        pickle: Whether pickles are made and read: the option of the same name.
        plugins: Who takes part; None for all that are installed.

    Raises:
        SystemExit: A plugin that must take part does not.
    """
    inbox = Inbox(channel)
    interrupts = Interrupts(by_wire=inbox.can_announce)
    interrupts.arm()
    records = RecordForwarder()
    try:
        responder = Responder(
            limits=limits, pickle=pickle, interrupts=interrupts, plugins=plugins, records=records
        )
    except PluginError as error:
        raise SystemExit(f"error: {error}") from None  # nobody needs to see where this was found
    with records.installed():
        _answer_all(channel, inbox, responder)
    interrupts.disarm()


def _answer_all(channel: Channel, inbox: Inbox, responder: Responder) -> None:
    host = Host(inbox)
    try:
        while not responder.finished:
            try:
                message = inbox.receive()
            except ProtocolError as error:
                channel.send(responder.refuse(error))
            except Exception as error:
                if error_of_handler(error) is None:
                    raise
                # An alarm, say, that a filter did not call off.
                _log.error("a signal handler raised while no command ran", exc_info=error)
            else:
                reply = responder.respond(message, channel.send, host)
                del message  # the memory that it lent is free before the host sends the next one
                channel.send(reply)
    except ChannelClosed:
        pass  # the host is gone, or has said all that it had to say
    finally:
        channel.close()
        responder.engine.close()


class Responder:
    """Turns each message into exactly one reply: reads, validates, executes and writes.

    Args:
        limits: What HELLO says of the largest messages.
        pickle: Whether pickles are made and read.
        interrupts: How a command that runs is interrupted.
        watch: Called with the name and the node of each command before it is executed, within
            what an interrupt ends.
        plugins: Who takes part; None for all that are installed.
        filters: What LOAD knows by name; None for all that are installed.
        records: Forwards what filters log and warn; None leaves that in this process.

    Attributes:
        engine: The engine that it drives.
        finished: Whether SHUTDOWN was answered.
    """

    def __init__(
        self,
        *,
        limits: StreamLimits | None = None,
        pickle: PicklePolicy = "same-user",
        interrupts: NoInterrupts | None = None,
        watch: Watch | None = None,
        plugins: PluginSet | None = None,
        filters: FilterRegistry | None = None,
        records: RecordForwarder | None = None,
    ) -> None:
        self._process = os.getpid()
        self._interrupts = interrupts or NoInterrupts()
        plugins = installed_plugins() if plugins is None else plugins
        pickles = Pickles(allowed=pickle != "never", codecs=plugins.known_codecs())
        parser = CommandParser(plugins.known_commands())
        self._validate = parser.validate
        self._frames: DialectCodec = FrameCodec(pickles)
        self._lines: DialectCodec = LineCodec(pickles)
        self._dense_lines: DialectCodec = LineCodec(pickles, dense=True)
        limits = limits or StreamLimits()
        info = EngineInfo(
            commands=tuple(parser.models),
            features=(*_FEATURES, *(("interrupts",) if self._interrupts.by_wire else ())),
            limits=Limits(line=limits.line, header=limits.header, nesting=MAX_NESTING),
        )
        filters = installed_filters() if filters is None else filters
        self.engine = Engine(filters, info, pickles, plugins)
        self.engine.interrupts = self._interrupts
        self.finished = False
        self._watch = watch
        self._records = records
        self._sending = threading.RLock() if records is None else records.sending

    def warm_up(self) -> None:
        """Import and build what first commands need: plugins, names of filters, both dialects."""
        client = client_info("soma").model_dump()
        for codec in (self._frames, self._lines):
            hello = {"cmd": "HELLO", "protocol": PROTOCOL_VERSION, "client": client}
            self.respond(codec.write(hello, Hello), lambda event: None)
        models: list[type[BaseModel]] = [*COMMANDS, *REPLIES, FilterMeta]
        for model in models:
            model.model_rebuild()
        import soma_core.wire.definitions.reading  # noqa: F401 - what reads a pickled filter

        installed_filters().names()
        installed_plugins().notify("soma_preloaded")

    def respond(self, message: Message, send_event: SendEvent, host: Host | None = None) -> Message:
        """Execute the command in a message and return the reply to send.

        Args:
            message: The message, whatever it holds.
            send_event: Sends an event, if the command or the host asked for them.
            host: Whose it is, and what it asked for before; noted here at its HELLO.
        """
        codec = self._codec(message.dialect)
        try:
            command: Command = codec.read(message, self._validate)
        except BaseException as error:
            return self._failure(error, Envelope.of(message), codec)
        if command.encoding is not None and codec is self._lines:
            codec = self._dense_lines
        records = self._records
        if records is None or host is None:
            return self._reply(command, codec, send_event)
        if type(command) is Hello:
            records.note_level(host, command.log_level)
            if command.interrupts is not None and host.inbox is not None:
                self._interrupts.watch(host.inbox)
        if command.log_levels is not None:
            records.note_levels(host, command.log_levels)
        if host.log_level is None:
            return self._reply(command, codec, send_event)

        def send_record(kind: EventKind, data: dict[str, Any]) -> None:
            self._send_event(kind, data, command, codec, send_event)

        records.begin(send_record, host.log_level)
        try:
            return self._reply(command, codec, send_event)
        finally:
            records.end()

    def _send_event(
        self,
        kind: EventKind,
        data: dict[str, Any],
        command: Command,
        codec: DialectCodec,
        send_event: SendEvent,
    ) -> None:
        """Send an event of a command that runs: one at a time, and not cut in two."""
        event = Event(event=kind, cmd=name_of_command(type(command)), data=data)
        message = codec.write_model(event, command.id)
        with self._sending:
            self._interrupts.shield(lambda: send_event(message))

    def _reply(self, command: Command, codec: DialectCodec, send_event: SendEvent) -> Message:
        try:
            if command.events:
                reply = self._execute_with_events(command, codec, send_event)
            else:
                reply = self._interrupts.run(self._execute, command)
            self.finished = type(command) is Shutdown
            if type(reply) in OF_CHAINS and codec is self._frames:
                self.engine.in_kind_sent(command, reply)
            try:
                return codec.write_reply(reply, command.id)
            except ProtocolError as error:
                raise _unsendable(error, command) from error
        except BaseException as error:
            envelope = Envelope.from_fields(command.__dict__)
            return self._failure(error, envelope, codec, self._described(error, envelope))

    def _described(self, error: BaseException, envelope: Envelope) -> dict[str, Any]:
        """What is told of an exception of a command; its text and properties are user code, too."""
        try:
            return self._interrupts.run(lambda _: describe_failure(error), envelope)
        except KeyboardInterrupt as interrupt:
            return describe_failure(interrupt)

    def refuse(self, error: ProtocolError) -> Message:
        """The reply to what was not even a message, in the dialect that it started in.

        Args:
            error: What ``receive`` of the channel raised.
        """
        dialect = Dialect.FRAME if isinstance(error, FrameError) else Dialect.LINE
        return self._failure(error, Envelope(), self._codec(dialect))

    def decline(self, message: Message, error: ProtocolError) -> Message:
        """The reply to a message that is not executed, for a reason of who serves it.

        Args:
            message: The message; the reply has its id and its dialect. INTERRUPT succeeds: there
                is nothing to execute.
            error: The reason.
        """
        envelope, codec = Envelope.of(message), self._codec(message.dialect)
        if envelope.cmd == name_of_command(Interrupt):
            return codec.write_reply(InterruptReply(), envelope.id)
        return self._failure(error, envelope, codec)

    def _codec(self, dialect: Dialect) -> DialectCodec:
        return self._frames if dialect is Dialect.FRAME else self._lines

    def _execute(self, command: Command) -> Reply:
        if self._watch is not None:
            self._watch(name_of_command(type(command)), getattr(command, "node_id", None))
        if command.profile:
            return profiled(self.engine.execute, command)
        return self.engine.execute(command)

    def _execute_with_events(
        self, command: Command, codec: DialectCodec, send_event: SendEvent
    ) -> Reply:
        def send(data: dict[str, Any]) -> None:
            self._send_event("progress", data, command, codec, send_event)

        reports = _Reports(send)
        try:
            with progress.listening(reports):
                return self._interrupts.run(self._execute, command)
        finally:
            reports.end()

    def _failure(
        self,
        error: BaseException,
        envelope: Envelope,
        codec: DialectCodec,
        described: dict[str, Any] | None = None,
    ) -> Message:
        """Where every exception becomes a reply."""
        if os.getpid() != self._process:
            _end_forked_child(error)
        known = {"cmd": envelope.cmd, "node_id": envelope.node_id}
        fields = {name: field for name, field in known.items() if field is not None}
        reply = ErrorReply(**(fields | (described or describe_failure(error))))
        try:
            return codec.write_reply(reply, envelope.id)
        except ProtocolError:  # only what plugins said can be what does not travel
            return codec.write_reply(reply.model_copy(update={"meta": {}}), envelope.id)


def _end_forked_child(error: BaseException) -> NoReturn:
    """A filter forked, and this is its child: no host hears it, so it ends as a program would."""
    raised = error.cause if isinstance(error, FilterFailed) else error
    context = raised.__context__
    try:
        raise raised
    finally:
        raised.__context__ = context


def _unsendable(error: ProtocolError, command: Command) -> ProtocolError:
    """Why a result cannot be sent: ``filter_failed`` where it does not pickle, ``pickle_refused``
    where it may not. The command was executed, so that neither must read as if it had been refused.
    """
    node_id = getattr(command, "node_id", None)
    name = name_of_command(type(command)) + (f" of node {node_id!r}" if node_id else "")
    unpicklable = error.code is ErrorCode.INVALID_COMMAND
    unsendable = ProtocolError(
        ErrorCode.FILTER_FAILED if unpicklable else error.code,
        f"{name} was executed, and its result cannot be sent: {error}",
        remote_type=error.remote_type,
    )
    note_executed(unsendable)
    return unsendable


class _Reports:
    """Takes what a filter reports while its command runs, on whichever thread."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self._lock = threading.RLock()
        self._running = True

    def __call__(self, data: dict[str, Any]) -> None:
        with self._lock:
            if self._running:
                self._send(data)

    def end(self) -> None:
        """The command has ended: a late report of a thread is dropped."""
        with self._lock:
            self._running = False
