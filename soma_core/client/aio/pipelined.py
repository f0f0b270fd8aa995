"""PipelinedConnection: sends commands to one worker before it has answered those before."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from soma_core.client.aio.channels import WatchedChannel
from soma_core.client.aio.connection import AsyncConnection
from soma_core.client.calls import Call
from soma_core.client.exchange import Exchange
from soma_core.errors import ChannelClosed, ProtocolError, SomaError
from soma_core.wire.message import Message

_SLOW = 0.02  # seconds that the first command may take before somebody looks after it
_MOST_BYTES = 1 << 20  # on their way, after which no more is sent: large data need their memory


class Sender(Protocol):
    """Whoever sent a command over a pipeline."""

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for the reply."""

    def arrived(self, reply: Any, seconds: float) -> None:
        """The reply has come, so many seconds after the one before, or after it was sent."""

    def begun(self) -> None:
        """The worker has answered the command before, so that its time runs from now on.

        Called of a command that has a limit of time.
        """

    def failed(self, error: BaseException) -> None:
        """There is none; of a command that the worker cannot have begun, ``sent`` is False."""

    def taken_back(self) -> None:
        """The worker has not begun the command, and never will: the one before it takes long."""


class PipelinedConnection:
    """Commands on their way to one worker, which answers them in their order.

    As long as all goes well there is no task: a callback of the loop takes each reply. A command
    that takes long, and whatever fails, is seen to by :meth:`drained`, one command after another
    and by the rules for any other call; nothing more is sent then. What is behind a command that
    takes long is taken back, if the worker has not begun it.

    Args:
        connection: The connection to the worker. Between :meth:`open` and :meth:`close` it is
            nobody else's turn.

    Attributes:
        refill: Called when replies have come, to send more.
        is_open: Whether more may be sent.
        interrupts: Whether the worker was interrupted since it was opened.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        channel: WatchedChannel,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.refill: Callable[[], None] | None = None
        self._connection, self._loop = connection, loop
        self._conversation = connection.conversation
        self._channel = channel
        self._output = connection.output
        self._on_way: deque[tuple[Exchange, Sender]] = deque()
        self._bytes = 0  # of all of them
        self._outbox: list[Exchange] = []
        self._since = 0.0  # the first of them was sent, or the one before it was answered
        self._waiter: asyncio.Future[None] | None = None
        self._unread: ProtocolError | None = None
        self._looks = False
        self.is_open = self.interrupts = False

    def __len__(self) -> int:
        return len(self._on_way)

    async def open(self) -> None:
        """Take the turn of the connection; nothing may be under way."""
        await self._connection.take_turn()
        self._channel.receiver = self
        self.is_open, self.interrupts = True, False

    def close(self) -> None:
        """Give the turn back; nothing may be under way, or nobody will know what becomes of it."""
        self.is_open, self._channel.receiver = False, None
        self._on_way.clear()
        self._outbox.clear()
        self._bytes = 0
        self._connection.end_turn()

    def send(self, call: Call, sender: Sender) -> None:
        """Send a command behind those that are on their way, at the next :meth:`flush`.

        Raises:
            Exception: As :meth:`Conversation.begin`; then nothing was sent.
        """
        conversation, on_way = self._conversation, self._on_way
        try:
            exchange = conversation.begin(call)
        except SomaError as error:
            self._connection.explain(error, conversation.last_id)
            raise
        on_way.append((exchange, sender))
        self._bytes += _size(exchange.message)
        if len(on_way) == 1:
            self._since = conversation.clock()
        else:
            conversation.exchange = on_way[0][0]
        self._outbox.append(exchange)

    def flush(self) -> None:
        """Send what is to be sent."""
        outbox, self._outbox = self._outbox, []
        if not outbox:
            return
        self._look_later()
        try:
            self._channel.send(*[exchange.message for exchange in outbox])
        except ChannelClosed as error:
            for exchange in outbox:
                exchange.sent = error.sent
            self.stop()

    @property
    def can_send(self) -> bool:
        """Whether a command can be sent now."""
        return self.is_open and self._bytes < _MOST_BYTES and not self._channel.is_sending

    def take(self, message: Message) -> None:
        """The channel has brought a message."""
        exchange, sender = self._on_way[0]
        try:
            event = self._conversation.take(message)
            if event is not None:
                self._connection.deliver(event, exchange)
        except ProtocolError as error:
            self._unread = error
            self.stop()
        except BaseException as error:  # of who shows what a filter logs
            sender.failed(error)
            self.stop()
        else:
            if exchange.over:
                self._first_is_over(exchange, sender)

    def _first_is_over(self, exchange: Exchange, sender: Sender) -> None:
        conversation = self._conversation
        now = conversation.clock()
        seconds, self._since = now - self._since, now
        self._next()
        try:
            reply = conversation.result(exchange)
        except SomaError as error:
            self._connection.explain(error, exchange.message_id)
            sender.failed(error.with_traceback(None))  # which would hold what was sent
        else:
            sender.arrived(reply, seconds)

    def all_taken(self) -> None:
        """What has come was taken: send more, or it is over."""
        if self._output is not None:
            self._output.show()  # before anybody who waits for a reply goes on
        if self.refill is not None:
            self.refill()
        self.flush()
        if not self._on_way and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _next(self) -> None:
        """The first command is over: the one behind it is the first."""
        on_way = self._on_way
        self._bytes -= _size(on_way.popleft()[0].message)
        first = None
        if on_way:
            first, sender = on_way[0]
            if first.call.timeout is not None:
                sender.begun()
        self._conversation.exchange = first

    def stop(self) -> None:
        """Send nothing more, and let :meth:`drained` see to what is on its way."""
        if not self.is_open:
            return
        self.is_open, self._channel.receiver = False, None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _look_later(self) -> None:
        if not self._looks:
            self._looks = True
            self._loop.call_later(_SLOW, self._look)

    def _look(self) -> None:
        """See whether the first command takes long, or is due."""
        self._looks = False
        if not (self.is_open and self._on_way):
            return
        slow = self._conversation.clock() - self._since >= _SLOW
        if slow or self._on_way[0][0].call.deadline.over():
            self.stop()
            self._take_back()
        else:
            self._look_later()

    def _take_back(self) -> None:
        on_way = self._on_way
        number = min(self._channel.take_back(), len(on_way) - 1)
        back = [on_way.pop() for _ in range(number)]
        for exchange, sender in back:  # the last one first
            self._bytes -= _size(exchange.message)
            sender.taken_back()

    def dropped(self) -> None:
        """A sender does not want its reply any more."""
        if not self.is_open and self._on_way:
            self._give_up_unwanted()
            self._channel.hurry()

    def _give_up_unwanted(self) -> None:
        exchange, sender = self._on_way[0]
        if not sender.wanted:
            exchange.give_up(self._conversation.clock())

    async def drained(self) -> None:
        """Wait until nothing is on its way any more."""
        while self._on_way:
            if self.is_open:
                self._waiter = self._loop.create_future()
                await self._waiter
            else:
                await self._finish_first()

    async def _finish_first(self) -> None:
        exchange, sender = self._on_way[0]
        unread, self._unread = self._unread, None
        conversation, connection = self._conversation, self._connection
        conversation.exchange = exchange
        exchange.progress(self._since)  # while it waited, it could not report any
        self._give_up_unwanted()
        try:
            await connection.settled()
            conversation.check_usable()
            reply = await connection.finish(exchange, unread)
        except asyncio.CancelledError:
            raise
        except SomaError as error:
            self._next()
            sender.failed(error.with_traceback(None))
        except BaseException as error:
            self._next()
            sender.failed(error)
        else:
            if self._output is not None:
                self._output.show()
            self._next()
            sender.arrived(reply, conversation.clock() - self._since)
        self.interrupts = self.interrupts or exchange.given_up
        self._since = conversation.clock()


def _size(message: Message) -> int:
    """How many bytes a message has."""
    return len(message.header) + sum(memoryview(buffer).nbytes for buffer in message.buffers)
