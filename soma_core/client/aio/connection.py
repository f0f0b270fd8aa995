"""AsyncConnection: runs a conversation over a channel in an event loop, and awaits what comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from soma_core.channel.contract import ExitStatus, Transport
from soma_core.channel.deadline import Deadline
from soma_core.client.aio.channels import loop_channel
from soma_core.client.aio.threads import in_thread
from soma_core.client.calls import Call
from soma_core.client.connection import LAST_BYTES_WAIT, Connection, not_sent
from soma_core.client.exchange import Due, Exchange
from soma_core.client.records import deliver
from soma_core.errors import (
    ChannelClosed,
    ErrorCode,
    ProtocolError,
    SomaError,
    TransportError,
)
from soma_core.protocol.replies import Event


class AsyncConnection:
    """The host's side of a channel in an event loop: calls of its tasks queue.

    A call whose task is cancelled is interrupted, as at a deadline. The task does not wait for
    that; the next call does, until the worker has given the command up, or was ended.

    Args:
        transport: Started already.
        connection: The connection over which the worker was greeted. Its conversation goes on
            here; it is used no more.
        loop: The loop, which runs.

    Attributes:
        origin: The connection that it goes on with.
        conversation: What is said.
        channel: Over which it is said.
        explain: Given the error of a call and the id of its command, before it is raised.
        output: What reads what the worker prints, or None.
        on_lost: Called when the worker closes the channel while nothing runs.
        is_lost: Whether it has; its process may still be about to end.
    """

    def __init__(
        self, transport: Transport, connection: Connection, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.origin = connection
        self.conversation = connection.conversation
        self.explain = connection.explain
        self.output = transport.output
        self._transport = transport
        self.channel = loop_channel(connection.channel, loop)
        self.channel.on_lost = self._lost
        self.on_lost: Callable[[], None] | None = None
        self.is_lost = False
        self._loop = loop
        self._turn = asyncio.Lock()
        self._left: Exchange | None = None  # by its caller, before it was over
        self._background: set[asyncio.Task[Any]] = set()

    async def ask(self, call: Call) -> Any:
        """Send a command and wait for its reply.

        Raises:
            Exception: As for :meth:`Connection.ask`.
            CancelledError: The task was cancelled.
        """
        if self._turn.locked():
            await self._wait_for_turn(call)
        else:
            await self._turn.acquire()
        conversation = self.conversation
        exchange: Exchange | None = None
        try:
            exchange = conversation.begin(call)
            await self._see_through(exchange, self._send_and_receive(exchange))
            return conversation.result(exchange)
        except BaseException as error:
            conversation.failed(call, error)
            if isinstance(error, SomaError):
                self.explain(error, conversation.last_id)
            raise
        finally:
            if exchange is None or exchange.over:
                self.end_turn()
            else:
                self._left = exchange

    @asynccontextmanager
    async def lent(self) -> AsyncGenerator[None, None]:
        """Somebody else uses the connection that this one goes on with."""
        await self.take_turn()
        self.channel.pause()
        try:
            yield
        finally:
            self.channel.resume()
            self.end_turn()

    def interrupt(self) -> None:
        """Interrupt the command that runs, if one does."""
        exchange = self.conversation.exchange
        if exchange is not None:
            exchange.interrupted = True
            self._interrupt(exchange)

    def close(self) -> None:
        """End it; a call that waits raises ChannelClosed."""
        self.conversation.closed = True
        self.channel.close()

    def _lost(self) -> None:
        self.is_lost = True
        if self.on_lost is not None:
            self.on_lost()

    @property
    def is_settling(self) -> bool:
        """Whether something is under way in the background."""
        return bool(self._background)

    async def settled(self) -> None:
        """Wait until nothing is under way in the background any more."""
        while self._background and not self._loop.is_closed():
            await asyncio.wait(self._background)

    async def _wait_for_turn(self, call: Call) -> None:
        self.conversation.check_usable()
        try:
            async with asyncio.timeout(call.deadline.left()):
                await self._turn.acquire()
        except TimeoutError:
            raise not_sent(call) from None

    def end_turn(self) -> None:
        """Nothing is under way: it is the turn of the next call."""
        if self.output is not None:
            self.output.show()
        self.conversation.exchange = None
        self._turn.release()

    async def take_turn(self) -> None:
        """Keep other calls from being sent until :meth:`end_turn`."""
        await self._turn.acquire()

    async def finish(self, exchange: Exchange, unread: ProtocolError | None = None) -> Any:
        """Wait for the reply to a command that was sent within this turn, and is the first.

        Args:
            unread: Why its reply, which came, cannot be read.

        Returns:
            The reply; None if the command was given up, since nobody wants that.

        Raises:
            Exception: As :meth:`ask`.
        """
        rest = self._receive(exchange) if unread is None else self._refuse(exchange, unread)
        try:
            await self._see_through(exchange, rest)
            if exchange.given_up and exchange.excess is None:
                return None
            return self.conversation.result(exchange)
        except SomaError as error:
            self.explain(error, exchange.message_id)
            raise

    def deliver(self, event: Event, exchange: Exchange) -> None:
        """Give an event of a command to whoever is to see it."""
        deliver(event, exchange.call, self.output)

    async def _see_through(self, exchange: Exchange, rest: Coroutine[Any, Any, None]) -> None:
        """Do an exchange until it is over; if the caller gives it up, the rest is done without."""
        try:
            await rest
        except ChannelClosed as error:
            dying = self._in_background(self._death(exchange, error), exchange)
            raise await asyncio.shield(dying) from None
        except BaseException:
            if not exchange.over:
                exchange.give_up(self.conversation.clock())
                self._in_background(self._receive(exchange), exchange)
            raise

    async def _send_and_receive(self, exchange: Exchange) -> None:
        try:
            self.channel.send(exchange.message)
        except ChannelClosed as error:
            exchange.sent = error.sent
            raise
        self.conversation.sent(exchange)
        await self._receive(exchange)

    async def _refuse(self, exchange: Exchange, error: ProtocolError) -> None:
        await self._check_unreadable(exchange, error)
        raise error

    async def _receive(self, exchange: Exchange) -> None:
        conversation, channel = self.conversation, self.channel
        while not exchange.over:
            try:
                message = await channel.receive(exchange.wait(conversation.clock()))
                event = conversation.take(message)
            except TimeoutError:
                if exchange.over:  # of a signal handler, while the reply was read
                    raise
                await self._do_what_is_due(exchange)
            except (ChannelClosed, ProtocolError) as error:
                if exchange.given_up:
                    by_itself = type(error) is ChannelClosed and not conversation.closed
                    await self._end(exchange, by_itself=by_itself)
                    return
                if isinstance(error, ProtocolError):
                    await self._check_unreadable(exchange, error)
                raise
            else:
                if event is not None:
                    self.deliver(event, exchange)
                if not exchange.over:
                    await self._do_what_is_due(exchange)

    async def _do_what_is_due(self, exchange: Exchange) -> None:
        for due in exchange.due(self.conversation.clock()):
            match due:
                case Due.LOOK:
                    exchange.looked(self._transport.poll() is not None)
                case Due.INTERRUPT:
                    self._interrupt(exchange)
                case Due.END:
                    await self._end(exchange)

    def _interrupt(self, exchange: Exchange) -> None:
        message = self.conversation.interruption(exchange)
        if message is None:
            self._transport.interrupt()
        elif not self.channel.is_sending:
            with suppress(ChannelClosed):  # which whoever receives finds out
                self.channel.send(message)

    async def _check_unreadable(self, exchange: Exchange, error: ProtocolError) -> None:
        """As :meth:`Connection._check_unreadable`."""
        if exchange.over:
            if not exchange.answered:
                self.channel.close()
        elif error.code is ErrorCode.MALFORMED and await self._status_within(LAST_BYTES_WAIT):
            raise ChannelClosed(str(error), sent=True) from None
        elif not self.channel.closed:
            exchange.over = exchange.answered = True

    async def _end(self, exchange: Exchange, *, by_itself: bool = False) -> None:
        self.channel.close()
        grace = self._transport.status_delay if by_itself else 0.0
        status = await in_thread(lambda: self._transport.stop(grace), name="soma-stop")
        self.conversation.stopped(exchange, status, by_itself=by_itself)

    async def _status_within(self, seconds: float) -> ExitStatus | None:
        """How the worker's process ended, if it does within so many seconds."""
        status = self._transport.poll()
        end = Deadline.after(seconds)
        while status is None and not end.over():
            await asyncio.sleep(0.01)
            status = self._transport.poll()
        return status

    async def _death(self, exchange: Exchange, error: ChannelClosed) -> TransportError:
        """What to raise when the channel closed under a call."""
        if self.conversation.closed:
            exchange.over = True
            return ChannelClosed(f"the worker was closed while {exchange.call} ran")
        status = await self._status_within(self._transport.status_delay)
        stderr = await in_thread(self._transport.diagnostics, name="soma-diagnostics")
        death = self.conversation.died(exchange, error, status, stderr)
        self.channel.close()
        if status is None:  # it lives, and nobody can reach it
            await in_thread(lambda: self._transport.stop(0.0), name="soma-stop")
        return death

    def _in_background(
        self, rest: Coroutine[Any, Any, Any], exchange: Exchange
    ) -> asyncio.Task[Any]:
        """Do the rest of an exchange in a task of its own, whatever becomes of the caller."""
        task = self._loop.create_task(rest)
        self._background.add(task)

        def end(task: asyncio.Task[Any]) -> None:
            self._background.discard(task)
            exchange.over = True  # even if the rest failed: nobody else sees to it
            if task.cancelled():  # the loop ends, and nobody will know what becomes of it
                self.channel.close()
            if self._left is exchange:
                self._left = None
                self.end_turn()

        task.add_done_callback(end)
        return task
