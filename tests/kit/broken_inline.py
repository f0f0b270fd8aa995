"""Transports that break one clause each, around the engine in this process; see test_broken.py."""

from __future__ import annotations

import atexit
import math
import os
import struct
import subprocess
import threading
from typing import Any, ClassVar

from pydantic import ConfigDict

from soma_core.engine.inline import InlineTransport
from soma_core.errors import ChannelClosed, ErrorCode, ProtocolError
from soma_core.protocol.dialects import read_fields
from soma_core.testing import Capability, TransportConformance
from soma_core.transport import Channel, Dialect, Message

REASON = "the engine is in this process"
SHORT = 4.0  # seconds, for those who are found out by waiting


class Wrapped(Channel):
    """A channel around another, to be broken by a subclass."""

    def __init__(self, inner: Channel) -> None:
        self.inner = inner

    def send(self, message, timeout=None):
        self.inner.send(message, timeout)

    def receive(self, timeout=None):
        return self.inner.receive(timeout)

    def close(self):
        self.inner.close()

    @property
    def closed(self):
        return self.inner.closed


class Draining(Wrapped):
    """Takes what has come, and hands out what ``choose`` picks."""

    def __init__(self, inner):
        super().__init__(inner)
        self.waiting: list[Message] = []

    def receive(self, timeout=None):
        try:
            while True:
                self.waiting.append(self.inner.receive(0.0))
        except (TimeoutError, ChannelClosed):
            if not self.waiting:
                raise
        return self.waiting.pop(self.choose())


def is_event(message: Message) -> bool:
    return "event" in read_fields(message)


class Inline(TransportConformance):
    """The suite of an inline transport with a broken channel."""

    channel: ClassVar[type[Wrapped]] = Wrapped
    lacks: ClassVar = {Capability.ISOLATION: REASON}
    breaks: ClassVar[str]

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "transport" not in vars(cls):
            cls.transport = type("Broken", (Broken,), {"channel": cls.channel})


class Broken(InlineTransport):
    name = "broken"
    channel: ClassVar[type[Wrapped]] = Wrapped

    def start(self, timeout=None):
        return self.channel(super().start(timeout))


class TestSwapsReplies(Inline):
    breaks = "order.commands"

    class channel(Draining):  # noqa: N801
        def choose(self):
            return int(len(self.waiting) > 1 and not any(map(is_event, self.waiting)))


class TestSendsEventsLate(Inline):
    breaks = "order.events"

    class channel(Draining):  # noqa: N801
        def choose(self):
            replies = [n for n, message in enumerate(self.waiting) if not is_event(message)]
            return replies[0] if replies else 0


class TestLosesTheLastByteAtALimit(Inline):
    breaks = "boundaries.buffers"

    class channel(Wrapped):  # noqa: N801
        def receive(self, timeout=None):
            message = self.inner.receive(timeout)
            for buffer in message.buffers:
                if len(buffer) == (1 << 16) + 1:
                    buffer[-1] ^= 1
            return message


class TestLimitsHeaders(Inline):
    breaks = "boundaries.headers"

    class channel(Wrapped):  # noqa: N801
        def receive(self, timeout=None):
            message = self.inner.receive(timeout)
            if len(message.header) > 3_000_000:
                raise ProtocolError(ErrorCode.TOO_LARGE, "the header is too large")
            return message


class TestCountsBuffersInAByte(Inline):
    breaks = "boundaries.many-buffers"

    class channel(Wrapped):  # noqa: N801
        def receive(self, timeout=None):
            message = self.inner.receive(timeout)
            return message._replace(buffers=message.buffers[:255])


class TestLooksForFramesInBuffers(Inline):
    breaks = "boundaries.content"

    class channel(Wrapped):  # noqa: N801
        def receive(self, timeout=None):
            message = self.inner.receive(timeout)
            buffers = [buffer.replace(b"\x93SOMA", b"?????") for buffer in message.buffers]
            return message._replace(buffers=buffers)


class TestDropsWhatIsNoCommand(Inline):
    breaks = "boundaries.malformed"

    class channel(Wrapped):  # noqa: N801
        def send(self, message, timeout=None):
            if b"cmd" in message.header:
                self.inner.send(message, timeout)


class TestHandsOutBytes(Inline):
    breaks = "buffers.writable"

    class channel(Wrapped):  # noqa: N801
        def receive(self, timeout=None):
            message = self.inner.receive(timeout)
            return message._replace(buffers=[bytes(buffer) for buffer in message.buffers])


class TestSendsLater(Inline):
    breaks = "buffers.apart"

    class channel(Wrapped):  # noqa: N801
        def __init__(self, inner):
            super().__init__(inner)
            self.kept: list[Message] = []

        def send(self, message, timeout=None):
            if self.inner.closed:
                raise ChannelClosed("closed")
            self.kept.append(message)

        def receive(self, timeout=None):
            while self.kept:
                self.inner.send(self.kept.pop(0))
            return self.inner.receive(timeout)


class TestAnswersFramesWithLines(Inline):
    breaks = "dialects.frames"

    class channel(Wrapped):  # noqa: N801
        def receive(self, timeout=None):
            message = self.inner.receive(timeout)
            has_id = b"\xa2id" in message.header  # what a Worker asks has one
            return message if has_id else message._replace(dialect=Dialect.LINE)


class TestAnswersLinesWithFrames(Inline):
    breaks = "dialects.lines"

    class channel(Wrapped):  # noqa: N801
        def receive(self, timeout=None):
            return self.inner.receive(timeout)._replace(dialect=Dialect.FRAME)


class TestWaitsForEver(Inline):
    breaks = "timeouts.receive"
    patience = SHORT

    class channel(Wrapped):  # noqa: N801
        def receive(self, timeout=None):
            try:
                return self.inner.receive(timeout)
            except TimeoutError:
                threading.Event().wait()


class TestRaisesAtTheSecondClose(Inline):
    breaks = "close.idempotent"

    class channel(Wrapped):  # noqa: N801
        def close(self):
            if self.closed:
                raise OSError("already closed")
            self.inner.close()


class TestSendsIntoTheVoid(Inline):
    breaks = "close.closed"

    class channel(Wrapped):  # noqa: N801
        def send(self, message, timeout=None):
            if not self.closed:
                self.inner.send(message, timeout)


class TestKeepsShutdownToItself(Inline):
    breaks = "close.shutdown"

    class channel(Wrapped):  # noqa: N801
        def send(self, message, timeout=None):
            if b"SHUTDOWN" in message.header and b"FORWARD" not in message.header:
                self.close()
            else:
                self.inner.send(message, timeout)


class TestForgetsACommand(Inline):
    breaks = "commands.all"

    class channel(Wrapped):  # noqa: N801
        def send(self, message, timeout=None):
            if b"GET_GRADIENTS" not in message.header:
                self.inner.send(message, timeout)


class TestRewritesNan(Inline):
    breaks = "values.all"

    class channel(Wrapped):  # noqa: N801
        def send(self, message, timeout=None):
            nan = struct.pack(">d", math.nan)
            header = message.header.replace(nan, bytes(8))
            self.inner.send(message._replace(header=header), timeout)


class StartsOnce(Broken):
    def start(self, timeout=None):
        return self._channel or super().start(timeout)


class TestStartsOnce(Inline):
    breaks = "close.start-again"
    transport = StartsOnce


class NeverEnds(Broken):
    def poll(self):
        return None


class TestNeverEnds(Inline):
    breaks = "contract.poll"
    patience = SHORT
    transport = NeverEnds


class NeedsAStart(Broken):
    def stop(self, grace):
        self._channel.close()


class TestNeedsAStart(Inline):
    breaks = "contract.before-start"
    transport = NeedsAStart


class Lenient(Broken):
    class Options(InlineTransport.Options):
        model_config = ConfigDict(extra="allow")


class TestTakesAnyOption(Inline):
    breaks = "contract.options"
    transport = Lenient


class TestIsModest(Inline):
    breaks = "contract.lacks"
    lacks: ClassVar = {Capability.ISOLATION: REASON, Capability.LINES: "it is not true"}


class LeavesDescriptors(Broken):
    def start(self, timeout=None):
        os.open(os.devnull, os.O_RDONLY)
        return super().start(timeout)


class TestLeavesDescriptors(Inline):
    breaks = "leaks.descriptors"
    patience = SHORT
    transport = LeavesDescriptors


class LeavesProcesses(Broken):
    left: ClassVar[list[subprocess.Popen]] = []

    def start(self, timeout=None):
        self.left.append(subprocess.Popen(["sleep", "600"]))
        atexit.register(self.left[-1].kill)
        return super().start(timeout)


class TestLeavesProcesses(Inline):
    breaks = "leaks.processes"
    patience = SHORT
    transport = LeavesProcesses


del Inline
