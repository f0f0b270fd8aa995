"""Engines: those behind one Worker.

A :class:`RemoteEngine` is one engine and the connection to it. A :class:`RestartingEngine` starts
another engine when the current one has died, and restores what that one held.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from soma_core.channel.contract import ExitStatus, Transport
from soma_core.channel.deadline import Deadline
from soma_core.client.backoff import Backoff
from soma_core.client.calls import Call
from soma_core.client.connection import Connection
from soma_core.client.host_path import hidden_modules, host_path
from soma_core.client.recovery import RecoveryLog
from soma_core.client.restart import Restart
from soma_core.client.worker_options import WorkerOptions
from soma_core.errors import (
    ChannelClosed,
    DeadlineExceeded,
    ErrorCode,
    IncompatibleWorker,
    ProtocolError,
    RemoteError,
    SomaError,
    StartFailed,
    TransportError,
    WorkerDied,
)
from soma_core.protocol.commands import Hello
from soma_core.protocol.versions import PROTOCOL_VERSION, WorkerHello, client_info
from soma_core.wire.pickles import Pickles

_REPEATABLE = frozenset({"FORWARD", "CALL_METHOD", "COMPOSITE_FORWARD"})
_STOP_GRACE = 0.5
_MOST_RESTARTS = 5


class RemoteEngine:
    """One engine, started and greeted, and the connection to it.

    Args:
        transport: Not started yet.
        pickles: Whether pickles travel; refused from HELLO on if the engine refuses them.
        options: Those of the worker.

    Attributes:
        connection: To the current engine.
        hello: What that engine said of itself.
        restarts: How many engines there were before it.
        plugins: Who is notified when an engine starts or ends.

    Raises:
        StartFailed: The engine did not come up.
        IncompatibleWorker: Its versions do not fit this host's.
    """

    def __init__(self, transport: Transport, pickles: Pickles, options: WorkerOptions) -> None:
        self._transport = transport
        self._pickles = pickles
        self._options = options
        self.plugins = options.plugins
        self._closed = threading.Event()
        self._path: list[str] | None = None
        self._looked_at: set[str] = set()
        self._exit_notified = False
        self.restarts = 0
        self.connection, self.hello = self._begin(Deadline.after(options.start_timeout))
        self._notify_start()

    def close(self) -> None:
        """Start no other engine, and close the connection to this one."""
        self._closed.set()
        self.connection.close()

    def notify_exit(self, status: ExitStatus | None) -> None:
        """Tell plugins that the current engine has ended, once."""
        if self._exit_notified:
            return
        self._exit_notified = True
        self.plugins.notify(
            "soma_worker_exited",
            transport=self._transport.name,
            pid=self.hello.pid,
            status=status,
        )

    def _notify_start(self) -> None:
        self._exit_notified = False
        self.plugins.notify(
            "soma_worker_started",
            transport=self._transport.name,
            pid=self.hello.pid,
            incarnation=self.hello.incarnation,
        )

    def _begin(self, deadline: Deadline) -> tuple[Connection, WorkerHello]:
        if self._closed.is_set():
            raise ChannelClosed("the worker was closed")
        transport, recorder = self._transport, self._options.recorder
        channel = transport.start(deadline.left())
        explain = None
        if recorder is not None:
            channel, explain = recorder.over(channel), recorder.explain
        connection = Connection(
            transport,
            channel,
            self._pickles,
            explain,
            grace=self._options.interrupt_grace,
            observers=self.plugins.observing_calls(),
        )
        try:
            return connection, self._greet(connection, deadline)
        except BaseException:
            connection.close()
            transport.stop(_STOP_GRACE)
            raise

    def changed_path(self, timeout: float | None) -> Call | None:
        """What tells the engine where this program imports modules from, if that has changed."""
        if self._path is None or self._path == host_path():
            return None
        return Call.of(self._hello(), timeout)

    def look_at_imports(self) -> None:
        """Have modules that were imported travel whole if the engine may find another."""
        if self._path is None:
            return
        new = sys.modules.keys() - self._looked_at
        self._pickles.by_value |= hidden_modules(new)
        self._looked_at |= new

    def _hello(self) -> Hello:
        share = self._transport.shares_files and self._pickles.allowed
        self._path = host_path() if share else None
        self._looked_at.clear()
        self.look_at_imports()
        return Hello(
            cmd="HELLO",
            protocol=PROTOCOL_VERSION,
            client=client_info("soma_core"),
            codecs=self._pickles.codecs.names(),
            path=self._path,
            argv=[*map(str, sys.argv)] if share else None,
            log_level=self._transport.options.least_level(),
            interrupts="wire" if self._transport.interrupts_by_message else None,
        )

    def _greet(self, connection: Connection, deadline: Deadline) -> WorkerHello:
        try:
            answer: WorkerHello = connection.ask(Call.of(self._hello(), deadline.left()))
            answer.check(pickles=self._pickles.allowed)
        except IncompatibleWorker:
            raise
        except (TransportError, RemoteError, ProtocolError) as error:
            late = isinstance(error, DeadlineExceeded)
            unread = connection.channel.unread if late else b""
            sent = f"; it sent {unread!r}, which is no message" if unread else ""
            raise StartFailed(
                f"the worker behind the transport {self._transport.name!r} did not answer HELLO: "
                f"{error}{sent}{_start_remedy(error, unread)}"
            ) from error
        by_message = self._transport.interrupts_by_message and "interrupts" in answer.features
        connection.conversation.interrupts_by_message = by_message
        if "log_levels" not in answer.features:
            connection.conversation.tells_levels = False
        self._pickles.codecs.limit_to(answer.codecs)
        if answer.pickle == "never":
            self._pickles.refuse()  # either side may, and then both do
        return answer


class RestartingEngine(RemoteEngine):
    """An engine that is followed by another when the current one has died."""

    def __init__(self, transport: Transport, pickles: Pickles, options: WorkerOptions) -> None:
        self._recovery = RecoveryLog(pickles)
        self._backoff = Backoff(budget=_MOST_RESTARTS)
        self._restarting = threading.RLock()  # a signal handler may call in the midst of a call
        self._restart: Restart | None = None
        self._unrecoverable: RemoteError | None = None
        super().__init__(transport, pickles, options)

    def ask(self, call: Call) -> Any:
        """Send a command to the current engine, after starting another one if that has died.

        Raises:
            StateLost: A state that it uses died with an engine.
            StartFailed: The other engine did not come up.
            WorkerDied: The engine died during the command, or too many have in a row.
        """
        repeats = self.repeats(call)
        while True:
            connection = self.living(call)
            self.check(call)
            try:
                reply = connection.ask(call)
                self.acknowledged(call, reply)
                return reply
            except WorkerDied as death:
                if death.sent and repeats == 0:
                    raise
                repeats -= death.sent
            except BaseException:
                if call.executed:  # Ctrl-C just after it
                    self._recovery.unclaimed(call)
                raise

    def repeats(self, call: Call) -> int:
        """How often a call may be sent again after it was sent to an engine that died."""
        return self._options.retries if call.cmd in _REPEATABLE else int(call.cmd == "PING")

    def check(self, call: Call) -> None:
        """Refuse a call for which the current engine lacks what the one before it held."""
        self._recovery.check(call)
        call.when_unclaimed = self._recovery.unclaimed

    def acknowledged(self, call: Call, reply: Any) -> None:
        """The engine has done a call."""
        self._backoff.reset()
        self._recovery.acknowledged(call, reply)

    def living(self, call: Call) -> Connection:
        """The connection to an engine that lives, as far as is known; waits while it starts."""
        while (death := self.connection.conversation.ended) and not self._closed.is_set():
            self.connection.conversation.check_owner()  # a forked child lacks the thread
            restart = self._restart_after(death)
            if not restart.wait(call.deadline):
                raise late(call.cmd)
            restart.raise_error_once()
        return self.connection

    def _restart_after(self, death: WorkerDied) -> Restart:
        """The restart that is under way, or one that begins now."""
        with self._restarting:
            if self._restart is not None and not self._restart.is_over:
                return self._restart
            if self._unrecoverable is not None:
                raise self._unrecoverable
            if self._backoff.exhausted:
                raise WorkerDied(
                    f"the worker was restarted {_MOST_RESTARTS} times without a successful call in "
                    f"between, and is not started again; connect anew. The last time: {death}",
                    **death.facts,
                )
            self._restart = restart = Restart(lambda: self._start_another(death))
        restart.begin()
        return restart

    def _start_another(self, death: WorkerDied) -> None:
        try:
            if self.connection.conversation.ended is death:  # else another restart was faster
                self._start_one()
        finally:
            self._restart = None

    def _start_one(self) -> None:
        self._closed.wait(self._backoff.next_delay())
        self.notify_exit(self._transport.stop(0.0))
        self._recovery.worker_ended()
        deadline = Deadline.after(self._options.start_timeout)
        try:
            connection, hello = self._begin(deadline)
            self._restore(connection, deadline)
        except SomaError:  # which may look like anything
            if self._closed.is_set():
                raise ChannelClosed("the worker was closed while it was being restarted") from None
            raise
        self.connection, self.hello = connection, hello
        self.restarts += 1
        self._notify_start()

    def _restore(self, connection: Connection, deadline: Deadline) -> None:
        """Give a new engine what the one before it held, or end it."""
        try:
            for command in self._recovery.restore():
                connection.ask(Call.of(command, deadline.left()))
            if self._closed.is_set():
                raise ChannelClosed("the worker was closed")
        except BaseException as error:
            connection.close()
            self._transport.stop(_STOP_GRACE)
            if isinstance(error, RemoteError):  # it would fail in the same way again
                error.add_note("The worker was being restarted, and what it held is refused now.")
                self._unrecoverable = error
            raise


def _start_remedy(error: Exception, unread: bytes) -> str:
    """What to do about the commonest reasons why a worker does not come up."""
    if "No module named" in str(error) and "soma_" in str(error):
        return (
            "\nIts Python lacks soma: install soma-core there, or name another interpreter with "
            "python="
        )
    if unread or (isinstance(error, ProtocolError) and error.code is ErrorCode.MALFORMED):
        return (
            "; something else writes to the worker's stdout before it answers, such as the "
            "greeting of a login shell or a print in sitecustomize: let it write to stderr"
        )
    return ""


def late(cmd: str) -> DeadlineExceeded:
    """What a call raises that has no time to wait for a restart."""
    return DeadlineExceeded(
        f"{cmd} was not sent within its timeout: the worker had died and was being restarted",
        worker_survived=False,
    )
