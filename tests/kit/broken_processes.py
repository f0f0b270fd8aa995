"""Transports that break one clause each, around a child process; see test_broken.py."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import Any, ClassVar

import psutil
from ormsgpack import packb

from soma_core.errors import ChannelClosed, ProtocolError
from soma_core.testing import TransportConformance
from soma_core.transport import ExitStatus, Message
from soma_transport_stdio import StdioTransport

from ..support import guard_of, wait_until
from .broken_inline import SHORT, Wrapped, is_event

DAEMON = """
import os, soma_transport_stdio.__main__ as daemon
{change}
daemon.main()
"""


class Process(TransportConformance):
    """The suite of a stdio transport with a broken channel or daemon."""

    channel: ClassVar[type[Wrapped]] = Wrapped
    change = ""
    breaks: ClassVar[str]
    with_it: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "transport" not in vars(cls):
            cls.transport = type(
                "Broken", (Broken,), {"channel": cls.channel, "change": cls.change}
            )


class Broken(StdioTransport):
    name = "broken"
    channel: ClassVar[type[Wrapped]] = Wrapped
    change = ""

    def start(self, timeout=None):
        channel = self.channel(super().start(timeout))
        channel.transport = self
        return channel

    def _command(self):
        return [sys.executable, "-P", "-c", DAEMON.format(change=self.change)]


class TestPrintsOnTheWire(Process):
    breaks = "hygiene.stdout"
    with_it = frozenset({"hygiene.output"})
    change = """
dup2 = os.dup2
os.dup2 = lambda fd, to: to if to == 1 else dup2(fd, to)  # stdout stays the wire
"""


class TestReadsItsOwnWire(Process):
    breaks = "hygiene.stdin"
    patience = SHORT
    change = """
dup2 = os.dup2
os.dup2 = lambda fd, to: to if to == 0 else dup2(fd, to)  # stdin stays the wire
"""


class TestExitsWithTheFilter(Process):
    breaks = "hygiene.exit"
    change = """
from soma_core.serve import Responder
respond = Responder.respond
def respond_or_exit(self, *arguments):
    reply = respond(self, *arguments)
    if b"SystemExit" in reply.header:
        os._exit(3)
    return reply
Responder.respond = respond_or_exit
"""


class TestNeedsItsDirectory(Process):
    breaks = "hygiene.cwd"
    change = """
from soma_core.streams import StreamChannel
receive = StreamChannel.receive
def receive_at_home(self, timeout=None):
    os.getcwd()
    return receive(self, timeout)
StreamChannel.receive = receive_at_home
"""


class Left(Wrapped):
    """A channel that can tell its own end from that of the engine."""

    left = False

    def close(self):
        self.left = True
        self.inner.close()

    def ended(self):
        """How the engine did, which is gone before it can be reaped; None if it did not."""
        return None if self.left else wait_until(self.transport.poll).signal_name


class TestTellsADeathLate(Process):
    breaks = "death.during-call"
    patience = SHORT

    class channel(Left):  # noqa: N801
        def receive(self, timeout=None):
            try:
                return self.inner.receive(timeout)
            except ChannelClosed:
                if self.ended() is not None:
                    threading.Event().wait(1.0)
                raise


class TestTakesHalfAReplyForAWholeOne(Process):
    breaks = "death.mid-reply"

    class channel(Wrapped):  # noqa: N801
        def receive(self, timeout=None):
            try:
                return self.inner.receive(timeout)
            except ProtocolError:
                return Message(packb({"ok": True, "result": "xxxx"}))


class TestSwallowsABrokenSend(Process):
    breaks = "death.mid-request"
    patience = SHORT

    class channel(Wrapped):  # noqa: N801
        swallowed = False

        def send(self, message, timeout=None):
            try:
                self.inner.send(message, timeout)
            except ChannelClosed:
                if sum(memoryview(buffer).nbytes for buffer in message.buffers) < 10_000_000:
                    raise
                self.swallowed = True

        def receive(self, timeout=None):
            if self.swallowed:
                raise TimeoutError
            return self.inner.receive(timeout)


class TestSendsForAsLongAsItTakes(Process):
    breaks = "timeouts.send"
    patience = SHORT

    class channel(Wrapped):  # noqa: N801
        def send(self, message, timeout=None):
            self.inner.send(message)


class TestForgetsWhatCameAfterTimeouts(Process):
    breaks = "timeouts.reuse"

    class channel(Wrapped):  # noqa: N801
        short_waits = 0

        def receive(self, timeout=None):
            try:
                message = self.inner.receive(timeout)
            except TimeoutError:
                self.short_waits += timeout == 0.05  # as the clause waits, and no Worker does
                raise
            if self.short_waits >= 3:
                self.short_waits = 0
                raise TimeoutError
            return message


class TestClosesWhenItSuits(Process):
    breaks = "close.other-thread"

    class channel(Wrapped):  # noqa: N801
        def __init__(self, inner):
            super().__init__(inner)
            self.busy = threading.RLock()

        def receive(self, timeout=None):
            with self.busy:
                return self.inner.receive(timeout)

        def close(self):
            with self.busy:
                self.inner.close()


class TestStartsAnotherEngineUnasked(Process):
    breaks = "death.idle"

    class channel(Wrapped):  # noqa: N801
        waiting = 0

        def send(self, message, timeout=None):
            if not (self.closed or self.waiting) and self.has_ended():
                self.transport.stop(0.0)
                self.inner = self.transport.start().inner
            self.waiting += 1
            self.inner.send(message, timeout)

        def has_ended(self):
            """A process with threads is a zombie for a while before it can be waited for."""
            if self.transport.poll() is not None:
                return True
            children = psutil.Process().children()
            return any(child.status() == psutil.STATUS_ZOMBIE for child in children)

        def receive(self, timeout=None):
            message = self.inner.receive(timeout)
            self.waiting -= not is_event(message)
            return message


class TestTakesATerminationForASuccess(Process):
    breaks = "faults.all"

    class channel(Left):  # noqa: N801
        def receive(self, timeout=None):
            try:
                return self.inner.receive(timeout)
            except ChannelClosed:
                if self.ended() == "SIGTERM":
                    return Message(packb({"ok": True, "result": None}))
                raise


class CannotInterrupt(Broken):
    def interrupt(self):
        if self._process is not None and self._process.poll() is None:
            raise NotImplementedError("there are no signals here")


class TestCannotInterrupt(Process):
    breaks = "timeouts.deadline"
    with_it = frozenset(
        {
            "interrupts.survive",
            "interrupts.ctrl-c",
            "interrupts.handler",
            "faults.all",
            "close.ends-stuck-engine",
        }
    )
    transport = CannotInterrupt


class LeavesTheEngine(Broken):
    change = """
main = daemon.main
def linger():
    import soma_core.channel.process, time
    soma_core.channel.process.exit_now = lambda: time.sleep(600)
    main()
daemon.main = linger
"""
    left: ClassVar[list[Any]] = []

    def stop(self, grace):
        if self._channel is None:
            return None
        self._channel.close()
        self.left.append(self._process)
        atexit.register(self._process.stop, 0.0)
        return ExitStatus()

    def poll(self):
        stopped = self._channel is not None and self._channel.closed
        return ExitStatus() if stopped else super().poll()


class TestLeavesTheEngineBehind(Process):
    breaks = "close.ends-engine"
    with_it = frozenset(
        {"close.clean", "close.ends-stuck-engine", "leaks.processes", "leaks.descriptors"}
    )
    patience = SHORT
    transport = LeavesTheEngine


class KeepsTheStatus(Broken):
    def poll(self):
        return None if super().poll() is None else ExitStatus()


class TestKeepsTheStatusToItself(Process):
    breaks = "death.status"
    transport = KeepsTheStatus


class KeepsStderr(Broken):
    def diagnostics(self):
        return ""


class TestKeepsStderrToItself(Process):
    breaks = "death.stderr"
    transport = KeepsStderr


class KillsToInterrupt(Broken):
    def interrupt(self):
        if self._process is not None and self._process.poll() is None:
            self._process.stop(0.0)


class TestKillsToInterrupt(Process):
    breaks = "interrupts.survive"
    with_it = frozenset({"interrupts.ctrl-c", "interrupts.handler"})
    transport = KillsToInterrupt


class StopsPolitely(Broken):
    kept: ClassVar[list[Any]] = []  # Python would complain of a process that nobody awaits

    def stop(self, grace):
        if self._channel is not None:
            self._channel.close()
        for _ in range(40):
            if self._process is None or self._process.poll() is not None:
                return super().stop(grace)
            threading.Event().wait(0.05)
        self.kept.append(self._process)
        return None


class TestLeavesMessagesUntilTheCommandIsOver(Process):
    breaks = "interrupts.message"
    patience = SHORT
    change = """
from soma_core.serve import Interrupts
Interrupts.watch = lambda self, inbox: None
"""


class TestStopsPolitely(Process):
    breaks = "close.ends-stuck-engine"
    patience = SHORT
    transport = StopsPolitely


class LeavesChildren(Broken):
    """Waits for its process by itself, and kills nothing of what that left."""

    change = "del os.environ['SOMA_TREE']"
    status: ExitStatus | None = None

    def poll(self):
        if self.status is not None or self._process is None:
            return self.status
        try:
            pid, status = os.waitpid(self._process.pid, os.WNOHANG)
        except ChildProcessError:  # stop() was faster
            return ExitStatus()
        if pid:
            self.status = ExitStatus.from_returncode(os.waitstatus_to_exitcode(status))
        return self.status


class TestLeavesChildrenBehind(Process):
    breaks = "leaks.grandchildren"
    with_it = frozenset({"leaks.host"})
    transport = LeavesChildren


class OutlivesItsHost(Broken):
    change = """
import soma_core.serve
soma_core.serve.hold_lifeline = lambda handed=None: None
"""

    def start(self, timeout=None):
        channel = super().start(timeout)
        worker = psutil.Process(self._process.pid)
        guard_of(wait_until(lambda: worker.environ().get("SOMA_TREE"))).kill()
        return channel


class TestOutlivesItsHost(Process):
    breaks = "leaks.host"
    patience = SHORT
    transport = OutlivesItsHost


class TestEndsAtOnce(Process):
    breaks = "close.clean"
    patience = SHORT
    change = """
import soma_core.serve
soma_core.serve.exit_now = lambda status=0: os._exit(status)
"""


class KeepsAllOutput(Broken):
    def __init__(self, options):
        self.kept = []
        super().__init__(options.model_copy(update={"output": self.kept.append}))

    def diagnostics(self):
        return super().diagnostics() + "".join(self.kept)


class TestKeepsAllOutput(Process):
    breaks = "hygiene.output"
    transport = KeepsAllOutput


class TestTakesTheErrorOfAHandlerForItsOwn(Process):
    breaks = "interrupts.handler"

    class channel(Wrapped):  # noqa: N801
        def receive(self, timeout=None):
            try:
                return self.inner.receive(timeout)
            except ConnectionError as error:
                raise ChannelClosed("the connection was lost") from error


class IsDeafOnTheMainThread(Broken):
    def interrupt(self):
        if threading.current_thread() is not threading.main_thread():
            super().interrupt()


class TestIsDeafOnTheMainThread(Process):
    breaks = "interrupts.ctrl-c"
    transport = IsDeafOnTheMainThread


del Process
