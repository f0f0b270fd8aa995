"""Incarnations: the engines behind one Worker, one after another."""

from __future__ import annotations

import threading
import time

from soma_core.channel.contract import ExitStatus, Transport
from soma_core.client.calls import Call, Reply
from soma_core.client.connection import Conversation
from soma_core.client.recording import Recorder
from soma_core.client.recovery import Ledger
from soma_core.errors import (
    ChannelClosed,
    DeadlineExceeded,
    IncompatibleWorker,
    ProtocolError,
    RemoteError,
    StartFailed,
    TransportError,
    WorkerDied,
)
from soma_core.plugins.manager import installed_plugins
from soma_core.protocol.versions import PROTOCOL_VERSION, WorkerHello, client_info
from soma_core.wire.pickles import Pickles

__all__ = ["Incarnations", "Restarts"]

_REPEATABLE = frozenset({"FORWARD", "COMPOSITE_FORWARD"})
_STOP_GRACE = 0.5


class Restarts:
    """How often a worker may be restarted without a successful call in between."""

    _BUDGET = 5
    _FIRST_DELAY = 0.1
    _LONGEST_DELAY = 5.0

    def __init__(self) -> None:
        self._in_a_row = 0

    def spend(self, death: WorkerDied) -> float:
        """Take one from the budget; the seconds to wait before it.

        Raises:
            WorkerDied: The budget is spent.
        """
        if self._in_a_row >= self._BUDGET:
            raise WorkerDied(
                f"the worker was restarted {self._BUDGET} times without a successful call in "
                f"between, and is not started again; connect anew. The last time: {death}",
                **death.facts,
            )
        self._in_a_row += 1
        if self._in_a_row == 1:
            return 0.0
        delay: float = self._FIRST_DELAY * 2 ** (self._in_a_row - 2)
        return min(delay, self._LONGEST_DELAY)

    def succeeded(self) -> None:
        """A call succeeded: the budget is whole again."""
        self._in_a_row = 0


class Incarnations:
    """Starts an engine, and with a ledger another one when it has died.

    Args:
        transport: Not started yet.
        pickles: Whether pickles travel; refused from HELLO on if the engine refuses them.
        start_timeout: Seconds in which an engine must come up and answer HELLO.
        recorder: Records the channels.
        ledger: What a new engine is given; None leaves a dead one dead.
        retries: How often a FORWARD is repeated after the engine died under it.

    Attributes:
        conversation: With the engine of now.
        hello: What that engine said of itself.
        restarts: How many engines there were before it.

    Raises:
        StartFailed: The engine did not come up.
        IncompatibleWorker: Its versions do not fit this host's.
    """

    def __init__(
        self,
        transport: Transport,
        pickles: Pickles,
        *,
        start_timeout: float | None,
        recorder: Recorder | None = None,
        ledger: Ledger | None = None,
        retries: int = 0,
    ) -> None:
        self._transport = transport
        self._pickles = pickles
        self._start_timeout = start_timeout
        self._recorder = recorder
        self._ledger = ledger
        self._retries = retries
        self._budget = Restarts()
        self._restarting = threading.Lock()
        self._closed = threading.Event()
        self._unrecoverable: RemoteError | None = None
        self.restarts = 0
        self.conversation, self.hello = self._begin(start_timeout)
        self._tell_start()

    def ask(self, call: Call) -> Reply:
        """Send a command to the engine of now, starting another one first if that has died.

        Raises:
            StateLost: A state that it uses died with an engine.
            StartFailed: The other engine did not come up.
            WorkerDied: The engine died during the command, or too many have in a row.
        """
        if self._ledger is None:
            return self.conversation.ask(call)
        return self._ask_or_restart(self._ledger, call)

    def _ask_or_restart(self, ledger: Ledger, call: Call) -> Reply:
        repeats = self._retries if call.cmd in _REPEATABLE else int(call.cmd == "PING")
        while True:
            conversation = self._living(call)
            ledger.check(call.node_ids)
            try:
                reply = conversation.ask(call)
            except WorkerDied as death:
                if death.sent and repeats == 0:
                    raise
                repeats -= death.sent
                call = call.again()
            else:
                self._budget.succeeded()
                return reply

    def close(self) -> None:
        """Start no other engine, and end the conversation with this one."""
        self._closed.set()
        self.conversation.close()

    def _living(self, call: Call) -> Conversation:
        """The conversation with an engine that lives, as far as is known."""
        while self.conversation.ended is not None and not self._closed.is_set():
            dead = self.conversation
            left = call.left()
            if not self._restarting.acquire(timeout=-1 if left is None else left):
                raise _late(call.cmd)
            try:
                death = dead.ended
                if self.conversation is dead and death and dead.belongs_to_this_process:
                    self._restart(death, call)
            finally:
                self._restarting.release()
            if not dead.belongs_to_this_process:
                break  # using it raises
        return self.conversation

    def _restart(self, death: WorkerDied, call: Call) -> None:
        if self._unrecoverable is not None:
            raise self._unrecoverable
        delay = self._budget.spend(death)
        left = call.left()
        if left is not None and left <= delay:
            raise _late(call.cmd)
        self._closed.wait(delay)
        self._tell_exit(self._transport.stop(0.0))
        assert self._ledger is not None
        self._ledger.worker_ended()
        started = time.monotonic()
        left = call.left()
        patience = [limit for limit in (self._start_timeout, left) if limit is not None]
        limit = started + min(patience) if patience else None
        conversation, hello = self._begin(_left(limit))
        try:
            for cmd, build, node_id in self._ledger.restore():
                conversation.ask(Call(cmd, build, _left(limit), node_id))
            if self._closed.is_set():
                raise ChannelClosed("the worker was closed while it was being restarted")
        except BaseException as error:
            conversation.close()
            self._transport.stop(_STOP_GRACE)
            if isinstance(error, RemoteError):  # it would fail in the same way again
                error.add_note("The worker was being restarted, and what it held is refused now.")
                self._unrecoverable = error
            raise
        self.conversation, self.hello = conversation, hello
        self.restarts += 1
        self._tell_start()

    def _begin(self, timeout: float | None) -> tuple[Conversation, WorkerHello]:
        if self._closed.is_set():
            raise ChannelClosed("the worker was closed")
        deadline = None if timeout is None else time.monotonic() + timeout
        transport, recorder = self._transport, self._recorder
        channel = transport.start(timeout)
        if recorder is None:
            conversation = Conversation(transport, channel, self._pickles)
        else:
            over = recorder.over(channel)
            conversation = Conversation(transport, over, self._pickles, recorder.explain)
        try:
            return conversation, self._greet(conversation, _left(deadline))
        except BaseException:
            conversation.close()
            transport.stop(_STOP_GRACE)
            raise

    def _greet(self, conversation: Conversation, timeout: float | None) -> WorkerHello:
        fields = {
            "protocol": PROTOCOL_VERSION,
            "client": client_info("soma_core").model_dump(),
            "codecs": self._pickles.codecs.names(),
        }
        try:
            reply = conversation.ask(Call("HELLO", lambda _: fields, timeout))
            hello = WorkerHello.read(reply.fields, pickles=self._pickles.allowed)
        except IncompatibleWorker:
            raise
        except (TransportError, RemoteError, ProtocolError) as error:
            raise StartFailed(
                f"the worker behind the transport {self._transport.name!r} did not say HELLO: "
                f"{error}"
            ) from error
        self._pickles.codecs.limit_to(hello.codecs)
        if hello.pickle == "never":
            self._pickles.refuse()  # either side may, and then both do
        return hello

    def _tell_start(self) -> None:
        installed_plugins().notify(
            "soma_worker_started",
            transport=self._transport.name,
            pid=self.hello.pid,
            incarnation=self.hello.incarnation,
        )

    def _tell_exit(self, status: ExitStatus | None) -> None:
        installed_plugins().notify(
            "soma_worker_exited",
            transport=self._transport.name,
            pid=self.hello.pid,
            status=status,
        )


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _late(cmd: str) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{cmd} was not sent within its timeout: the worker had died and was being restarted",
        worker_survived=False,
    )
