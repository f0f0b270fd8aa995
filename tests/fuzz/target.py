"""What is fuzzed: a stream in, and for each message in it exactly one sound reply out."""

from __future__ import annotations

import json
import pickle
import re
import signal
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import pairwise
from types import FrameType
from typing import Any, TypeVar

from soma_core.engine.interrupts import NoInterrupts
from soma_core.engine.nodes import Node, NodeTable
from soma_core.errors import ErrorCode, ProtocolError
from soma_core.protocol.parsing import CommandParser
from soma_core.serve import Responder
from soma_core.transport import Dialect, Message
from soma_core.wire import frames
from soma_core.wire.codec import Decoder
from soma_core.wire.parser import MessageParser, StreamLimits
from soma_core.wire.pickles import Pickles

from .inputs import Input
from .reference import Found, read

__all__ = ["Failure", "run"]

LIMITS = StreamLimits(line=4000, header=2500, body=6000)
COMMAND = 2.0  # CPU seconds; a huge number of epochs is sound, and is interrupted as by Ctrl-C
WHOLE = 30.0  # CPU seconds after which an input is taken to run for ever
MEMORY = 24 << 20  # what one input may take beside
MEMORY_PER_BYTE = 300  # of what came: an empty list costs two bytes there and 64 here

T = TypeVar("T")
C = TypeVar("C")


class Failure(AssertionError):
    """The promise that an input broke."""


class Keep:
    """A filter that computes nothing, so that what is measured is not its own."""

    def fit(self, x: Any, y: Any = None) -> Any:
        return {"x": x, "y": y}

    def forward(self, x: Any, state: Any) -> Any:
        return x if state is None else [x, state]


class Clock(NoInterrupts):
    """Interrupts a command that takes long, as Ctrl-C would."""

    def run(self, execute: Callable[[C], T], command: C) -> T:
        with _alarm(signal.SIGVTALRM, signal.ITIMER_VIRTUAL, COMMAND, KeyboardInterrupt):
            return execute(command)


@contextmanager
def _alarm(
    number: signal.Signals, timer: signal.ITIMER, seconds: float, error: type[BaseException]
) -> Iterator[None]:
    """Raise an error in the block when it has computed for so long."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise error(f"after {seconds:g} s")

    previous = signal.signal(number, ring)
    signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, 0.0)
        signal.signal(number, previous)


def run(given: Input) -> set[str]:
    """Run one input; what it showed, in words that tell new from known.

    Raises:
        Failure: A promise was broken.
    """
    _responder()
    tracemalloc.start()
    try:
        with _alarm(signal.SIGPROF, signal.ITIMER_PROF, WHOLE, Failure):
            shown = _run(given)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    allowed = MEMORY + MEMORY_PER_BYTE * len(given.stream)
    if peak > allowed:
        raise Failure(f"{len(given.stream):,} bytes took {peak:,} of memory")
    return shown


@cache
def _responder() -> Responder:
    """Built once, since its parser takes a tenth of a second; its engine forgets all nodes.

    torch is imported here, where it is installed: its first import takes more memory and time
    than the inputs may, and one that is interrupted cannot be repeated in the same process.
    """
    with suppress(ImportError):
        import torch  # noqa: F401
    return Responder(limits=LIMITS, pickles=Pickles(allowed=False), interrupts=Clock())


def _run(given: Input) -> set[str]:
    responder = _responder()
    responder.engine.nodes = NodeTable()
    responder.engine.nodes.add([Node("center", Keep())])
    expected = read(given.stream, LIMITS)
    shown = set()
    for outcome in _outcomes(given):
        found, wanted = _found(outcome), next(expected, None)
        if found != wanted:
            raise Failure(f"the parser found {found}, the reference {wanted}")
        fields = _reply(responder, outcome)
        if isinstance(outcome, Message):
            _check_recognised(outcome)
        shown.add(f"{fields.get('code', 'ok')} {fields.get('cmd')} {_kind(fields)}")
    missed = next(expected, None)
    if missed is not None:
        raise Failure(f"the parser found nothing more, the reference {missed}")
    ping = Message(b'{"cmd":"PING","id":"after"}', (), Dialect.LINE)
    if _reply(responder, ping).get("ok") is not True:
        raise Failure("a PING fails after it")
    return shown


def _kind(fields: dict[str, Any]) -> str:
    return re.sub(r"\d+|'[^']*'|\"[^\"]*\"|\[.*\]", "#", str(fields.get("error", "")))[:200]


def _outcomes(given: Input) -> Iterator[Message | ProtocolError]:
    """What the parser finds, fed as a channel feeds it."""
    parser = MessageParser(LIMITS)
    ends = [0, *given.cuts, len(given.stream)]
    for start, end in pairwise(ends):
        left = memoryview(given.stream)[start:end]
        while left and not parser.finished:
            count = min(len(parser.target), len(left)) or len(left)
            if parser.target:
                parser.target[:count] = left[:count]
                yield from _step(lambda count=count: parser.filled(count))  # type: ignore[misc]
            else:
                yield from _step(lambda piece=left[:count]: parser.feed(piece))  # type: ignore[misc]
            left = left[count:]
            yield from _drained(parser)
    yield from _step(lambda: parser.feed(memoryview(b"")))
    yield from _drained(parser)
    if not parser.finished:
        raise Failure("the parser does not end with its stream")


def _drained(parser: MessageParser) -> Iterator[Message | ProtocolError]:
    while found := list(_step(parser.next_message)):
        yield from found


def _step(step: Callable[[], Message | None]) -> Iterable[Message | ProtocolError]:
    try:
        message = step()
    except ProtocolError as error:
        return [error]
    return [] if message is None else [message]


def _found(outcome: Message | ProtocolError) -> Found:
    if isinstance(outcome, ProtocolError):
        framed = isinstance(outcome, frames.FrameError)
        return (Dialect.FRAME if framed else Dialect.LINE), outcome.code
    buffers = tuple(bytes(buffer) for buffer in outcome.buffers)
    return outcome.dialect, bytes(outcome.header), buffers


def _reply(responder: Responder, outcome: Message | ProtocolError) -> dict[str, Any]:
    """The fields of the one reply to a message, which is checked."""
    events: list[Message] = []
    try:
        if isinstance(outcome, ProtocolError):
            reply = responder.refuse(outcome)
        else:
            reply = responder.respond(outcome, events.append)
    except BaseException as error:
        raise Failure(f"an exception left the responder: {error!r}") from error
    for event in events:
        _check_event(outcome, event)
    if reply.dialect is not _found(outcome)[0]:
        raise Failure(f"a message got a reply in the other dialect, {reply.dialect}")
    fields = _checked(reply)
    if isinstance(outcome, Message) and (id := _id(outcome.header)) != fields.get("id"):
        raise Failure(f"the id {id!r} came back as {fields.get('id')!r}")
    return fields


@cache
def _parser() -> CommandParser:
    """One for all inputs, so that it has seen the like of a message before."""
    return CommandParser()


def _check_recognised(message: Message) -> None:
    """A message whose like was seen before is read as if it had come for the first time."""
    parser, pickles = _parser(), Pickles(allowed=False)
    header, buffers, _ = message
    recognised = parser.recognise(header, buffers)
    if recognised is None:
        with suppress(ProtocolError):
            parser.read(header, buffers, pickles)
        return
    known = parser.read(header, buffers, pickles, recognised)
    try:
        read = parser.parse(header, Decoder(buffers, pickles=pickles))
    except ProtocolError as error:
        raise Failure(f"what is refused was recognised: {error}; {header!r}") from error
    if type(known) is not type(read) or known.model_fields_set != read.model_fields_set:
        raise Failure(f"recognised as {known!r}, read as {read!r}")
    if _pickled(known.__dict__) != _pickled(read.__dict__):
        raise Failure(f"recognised as {known!r}, read as {read!r}")


def _pickled(fields: dict[str, Any]) -> bytes:
    """Every bit of some fields."""
    return pickle.dumps(sorted(fields.items()), protocol=2)


def _check_event(outcome: Message | ProtocolError, event: Message) -> None:
    """Only a BATCHED_FIT reports by itself here, and only where it was asked to."""
    asked = json.loads(outcome.header) if isinstance(outcome, Message) else {}
    told = json.loads(event.header, parse_constant=_refuse)
    expected = {"event": "progress", "cmd": "BATCHED_FIT", "id": asked.get("id")}
    if asked.get("events") is not True or asked.get("cmd") != "BATCHED_FIT":
        raise Failure(f"an event was sent that nobody asked for: {told}")
    if {name: told.get(name) for name in expected} != expected:
        raise Failure(f"an event of another command: {told}")


def _checked(reply: Message) -> dict[str, Any]:
    line = reply.dialect is Dialect.LINE
    if line and (reply.buffers or b"\n" in reply.header):
        raise Failure("a line that is not one line")
    try:
        fields = json.loads(reply.header, parse_constant=_refuse if line else None)
    except ValueError as error:
        raise Failure(f"a reply that is not JSON: {error}; {reply.header[:200]!r}") from None
    if fields["ok"] is not True:
        _check_error(fields)
    return dict(fields)


def _check_error(fields: dict[str, Any]) -> None:
    if fields["ok"] is not False or not fields["error"] or not isinstance(fields["error"], str):
        raise Failure(f"neither a success nor an error: {fields}")
    if ErrorCode(fields["code"]) is ErrorCode.INTERNAL:
        raise Failure(f"an error that nobody thought of: {fields['traceback']}")


def _refuse(name: str) -> None:
    raise ValueError(f"a bare {name} in a line")


def _id(header: bytes) -> str | int | None:
    """The id that a reply must carry, as far as another JSON parser can say."""
    try:
        fields = json.loads(header.decode())
    except (ValueError, RecursionError):
        return None
    id = fields.get("id") if isinstance(fields, dict) else None
    return id if type(id) in (str, int) else None
