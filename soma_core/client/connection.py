"""Connection: runs a conversation over a channel, and waits for it by blocking."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from soma_core.channel.contract import Channel, ExitStatus, Transport
from soma_core.channel.deadline import Deadline
from soma_core.channel.signalled import error_of_handler, raise_error_of_handler
from soma_core.client.calls import Call
from soma_core.client.conversation import Conversation
from soma_core.client.ctrl_c import CtrlC
from soma_core.client.exchange import Due, Exchange
from soma_core.client.records import deliver
from soma_core.client.waiting import waits_for_this_thread
from soma_core.errors import (
    ChannelClosed,
    DeadlineExceeded,
    ErrorCode,
    ProtocolError,
    SomaError,
    TransportError,
)
from soma_core.plugins.manager import CallObservers
from soma_core.wire.pickles import Pickles

Explain = Callable[[SomaError, int], None]

INTERRUPT_GRACE = 2.0
"""Seconds that an interrupted command may take to end, before the worker is ended."""

LAST_BYTES_WAIT = 0.2
"""Seconds in which a worker is seen to be dead that sent half a message."""

_FIRST_LOOK = 0.02  # seconds after which a call that waits for another thread's looks around
_LOOK = 0.25  # and then from time to time: for Ctrl-C, and whether that thread waits for this one


class Connection:
    """The host's side of a channel. Thread-safe: calls queue.

    Args:
        transport: Started already; asked about the worker's process when something goes wrong.
        channel: What ``transport.start`` returned.
        pickles: Whether pickles are made and read.
        explain: Given the error of a call and the id of its command, before it is raised; the
            transport is given it first.
        grace: Seconds that an interrupted command may take to end, before the worker is ended.
        observers: The plugins that observe calls, if there are any.

    Attributes:
        conversation: What is said.
    """

    def __init__(
        self,
        transport: Transport,
        channel: Channel,
        pickles: Pickles,
        explain: Explain | None = None,
        *,
        grace: float = INTERRUPT_GRACE,
        observers: CallObservers | None = None,
    ) -> None:
        self.conversation = Conversation(
            pickles,
            grace=grace,
            observers=observers,
            tells_levels=transport.options.log_level is None,
        )
        if transport.output is not None:
            transport.output.node_of = self.conversation.node_that_runs
        self.channel = channel
        self._explain = explain
        self._transport = transport
        self._turn = threading.RLock()  # a signal may come before its holder is noted
        self._interrupting = threading.RLock()
        self._turn_of: int | None = None
        self._ctrl_c = CtrlC()
        # A filter in this process has to be interrupted itself.
        here = transport.in_this_process
        self._signalled_thread = None if here else threading.main_thread().ident

    def ask(self, call: Call) -> Any:
        """Send a command and wait for its reply.

        Raises:
            DeadlineExceeded: It did not end in time.
            WorkerDied: The worker's process ended.
            ChannelClosed: ``close`` was called.
            RemoteError: The worker refused the command, or the filter failed.
            ProtocolError: The data cannot be sent.
        """
        ctrl_c = CtrlC()
        here = threading.get_ident()
        if here == self._turn_of:
            self._refuse_own_thread(call)
        if here == self._signalled_thread:
            ctrl_c.install()
        conversation = self.conversation
        try:
            if not self._turn.acquire(False):
                self._wait_for_turn(call, ctrl_c)
            self._turn_of = here
            self._ctrl_c = ctrl_c
            try:
                exchange = conversation.begin(call)
                if ctrl_c.kept:
                    ctrl_c.check()
                self._run(exchange)
                return conversation.result(exchange)
            except BaseException as error:
                conversation.failed(call, error)
                if isinstance(error, SomaError):
                    self.explain(error, conversation.last_id)
                raise
            finally:
                with self._interrupting:
                    conversation.exchange = None
                self._turn_of = None
                self._turn.release()
        finally:
            if ctrl_c.installed:
                ctrl_c.restore()

    def explain(self, error: SomaError, message_id: int) -> None:
        """Add to the error of a call what the transport, and who records it, know of it."""
        self._transport.explain(error)
        if self._explain is not None:
            self._explain(error, message_id)

    def interrupt(self) -> None:
        """Interrupt the command that runs, if one does."""
        with self._interrupting:
            exchange = self.conversation.exchange
            if exchange is not None:
                exchange.interrupted = True
                if not self.conversation.interrupts_by_message:  # only the caller's thread sends
                    self._transport.interrupt()

    def close(self) -> None:
        """End it; a call that waits raises ChannelClosed."""
        self.conversation.closed = True
        self.channel.close()

    def _wait_for_turn(self, call: Call, ctrl_c: CtrlC) -> None:
        self.conversation.check_usable()
        look = _FIRST_LOOK
        while not self._turn.acquire(timeout=call.deadline.within(look).left() or 0.0):
            ctrl_c.check()
            if waits_for_this_thread(self._turn_of, self):
                raise _would_wait_for_itself(
                    call, "from a thread or future that a call that runs on it waits for"
                )
            look = _LOOK
            if call.deadline.over():
                raise not_sent(call)

    def _refuse_own_thread(self, call: Call) -> None:
        self.conversation.check_usable()
        raise _would_wait_for_itself(
            call, "from the progress callback of a call that runs on it, or a signal handler"
        )

    def _run(self, exchange: Exchange) -> None:
        """Do an exchange until it is over; whatever happens, no reply is left behind."""
        call = exchange.call
        try:
            try:
                left = None if call.timeout is None else call.deadline.left()
                self.channel.send(exchange.message, left)
            except TimeoutError as error:
                if not call.deadline.over() or error_of_handler(error) is not None:
                    raise
                self._do_what_is_due(exchange)
            except ChannelClosed as error:
                exchange.sent = error.sent
                raise
            except ProtocolError:  # it is larger than the other end takes
                exchange.over = True
                raise
            self.conversation.sent(exchange)
            self._receive(exchange)
        except ChannelClosed as error:
            raise self._death(exchange, error) from None
        except BaseException:
            self._give_up(exchange)
            raise
        finally:
            output = self._transport.output
            if output is not None:
                output.show()

    def _receive(self, exchange: Exchange) -> None:
        conversation, channel = self.conversation, self.channel
        while not exchange.over:
            try:
                message = channel.receive(exchange.wait(conversation.clock()))
                event = conversation.take(message)
            except TimeoutError as error:
                if exchange.over or error_of_handler(error) is not None:
                    raise
                self._do_what_is_due(exchange)
            except (ChannelClosed, ProtocolError) as error:
                if exchange.given_up:
                    by_itself = type(error) is ChannelClosed and not self.conversation.closed
                    self._end(exchange, by_itself=by_itself)
                    return
                if isinstance(error, ProtocolError):
                    self._check_unreadable(exchange, error)
                raise
            else:
                if event is not None:
                    self._ctrl_c.at_once = True
                    deliver(event, exchange.call, self._transport.output)
                    self._ctrl_c.at_once = exchange.given_up
                if not exchange.over:  # what comes without end is no reason to wait on
                    self._do_what_is_due(exchange)

    def _do_what_is_due(self, exchange: Exchange) -> None:
        self._ctrl_c.check()
        for due in exchange.due(self.conversation.clock()):
            match due:
                case Due.LOOK:
                    exchange.looked(self._transport.poll() is not None)
                case Due.INTERRUPT:
                    self._interrupt(exchange)
                case Due.END:
                    self._end(exchange)

    def _interrupt(self, exchange: Exchange) -> None:
        message = self.conversation.interruption(exchange)
        if message is None:
            self._transport.interrupt()
        else:
            try:
                self.channel.send(message, 0.0)
            except (TimeoutError, ChannelClosed) as error:  # it is asked again, or found out
                raise_error_of_handler(error)

    def _check_unreadable(self, exchange: Exchange, error: ProtocolError) -> None:
        """What came cannot be read: a reply that is no good, or the last bytes of a dead worker.

        Raises:
            ChannelClosed: It is the latter.
        """
        if exchange.over:
            if not exchange.answered:  # it belongs to nobody
                self.channel.close()
        elif error.code is ErrorCode.MALFORMED and self._status_within(LAST_BYTES_WAIT):
            raise ChannelClosed(str(error), sent=True) from None
        elif not self.channel.closed:
            exchange.over = exchange.answered = True

    def _give_up(self, exchange: Exchange) -> None:
        """The caller does not wait any more: interrupt until the reply comes, or end the worker."""
        exchange.give_up(self.conversation.clock())
        self._ctrl_c.at_once = True
        try:
            self._receive(exchange)
        except BaseException:
            self._end(exchange)
            raise

    def _end(self, exchange: Exchange, *, by_itself: bool = False) -> None:
        self.channel.close()
        status = self._transport.stop(self._transport.status_delay if by_itself else 0.0)
        self.conversation.stopped(exchange, status, by_itself=by_itself)

    def _status_within(self, seconds: float) -> ExitStatus | None:
        """How the worker's process ended, if it does within so many seconds."""
        status = self._transport.poll()
        end = Deadline.after(seconds)
        while status is None and not end.over():
            time.sleep(0.01)
            status = self._transport.poll()
        return status

    def _death(self, exchange: Exchange, error: ChannelClosed) -> TransportError:
        """What to raise when the channel closed under a call."""
        if self.conversation.closed:
            return ChannelClosed(f"the worker was closed while {exchange.call} ran")
        status = self._status_within(self._transport.status_delay)
        death = self.conversation.died(exchange, error, status, self._transport.diagnostics())
        self.channel.close()
        if status is None:
            self._transport.stop(0.0)  # it lives, and nobody can reach it
        return death


def _would_wait_for_itself(call: Call, where: str) -> RuntimeError:
    return RuntimeError(
        f"{call.cmd} of this worker was called {where}; it would wait for itself. Call after that "
        "call, from a thread that it does not wait for, or use another worker"
    )


def not_sent(call: Call) -> DeadlineExceeded:
    """What a call raises that never had its turn."""
    return DeadlineExceeded(
        f"{call.cmd} waited {call.timeout:g} s for other calls on this worker and was not sent",
        worker_survived=True,
    )
