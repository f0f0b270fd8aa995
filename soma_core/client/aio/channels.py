"""Channels of an event loop: messages over a channel without blocking the loop."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from soma_core.channel.contract import Channel
from soma_core.channel.watchable import Descriptors, WatchableChannel
from soma_core.errors import ChannelClosed, ProtocolError
from soma_core.wire.message import Message

T = TypeVar("T")

_MOST_ARRIVED = 64  # messages that nobody has taken, after which no more are read


class Receiver(Protocol):
    """Whoever is given messages as they come, instead of waiting for each."""

    def take(self, message: Message) -> None:
        """A message has come."""

    def all_taken(self) -> None:
        """What has come up to now was taken."""

    def stop(self) -> None:
        """The channel has failed: :meth:`LoopChannel.receive` raises why."""


class LoopChannel(ABC):
    """A channel in an event loop. Used by one task at a time.

    Attributes:
        on_lost: Called when the other end closes it while nobody waits, if that can be seen.
    """

    on_lost: Callable[[], None] | None = None

    def __init__(self, channel: Channel, loop: asyncio.AbstractEventLoop) -> None:
        self._channel, self._loop = channel, loop

    @abstractmethod
    def send(self, *messages: Message) -> None:
        """Send one or more messages; what cannot be sent at once is sent while the caller waits.

        Raises:
            ChannelClosed: As for :meth:`Channel.send`.
        """

    @property
    @abstractmethod
    def is_sending(self) -> bool:
        """Whether some of a message is not sent yet; then nothing else can be sent."""

    @abstractmethod
    async def receive(self, timeout: float) -> Message:
        """Wait for a message; one that comes when the caller was cancelled is not lost.

        Raises:
            TimeoutError, ChannelClosed, ProtocolError: As for :meth:`Channel.receive`.
        """

    def take_back(self) -> int:
        """As :meth:`WatchableChannel.take_back`."""
        return 0

    def pause(self) -> None:  # noqa: B027 - what reads only while somebody waits need not
        """Let somebody else use what is below, until :meth:`resume`; nobody waits for a message."""

    def resume(self) -> None:  # noqa: B027
        """Go on."""

    @abstractmethod
    def close(self) -> None:
        """Close it: who waits for a message gets ChannelClosed. A second call does nothing."""

    @property
    def closed(self) -> bool:
        """Whether this end is closed."""
        return self._channel.closed


def loop_channel(channel: Channel, loop: asyncio.AbstractEventLoop) -> LoopChannel:
    """A channel in an event loop: watched if it has a descriptor, else used in one thread."""
    if isinstance(channel, WatchableChannel) and channel.descriptors is not None:
        return WatchedChannel(channel, channel.descriptors, loop)
    return _ThreadedChannel(channel, loop)


class WatchedChannel(LoopChannel):
    """A channel whose descriptor the loop watches: no thread, and no wake-up while it is idle.

    Attributes:
        receiver: Is given what comes, instead of who waits for a message; or None.
    """

    _channel: WatchableChannel
    receiver: Receiver | None = None

    def __init__(
        self,
        channel: WatchableChannel,
        descriptors: Descriptors,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(channel, loop)
        self._reading, self._writing = descriptors
        self._arrived: deque[Message | Exception] = deque()
        self._waiter: asyncio.Future[Message] | None = None
        self._due = 0.0  # when that is over
        self._timer: asyncio.TimerHandle | None = None
        self._watches = self._sends = False
        self._watch()

    def send(self, *messages: Message) -> None:
        if not self._channel.send_now(*messages):
            self._sends = True
            self._loop.add_writer(self._writing, self._send_more)

    @property
    def is_sending(self) -> bool:
        return self._sends

    def take_back(self) -> int:
        return 0 if self._sends or self._channel.closed else self._channel.take_back()

    def _send_more(self) -> None:
        try:
            if not self._channel.flush_now():
                return
        except ChannelClosed as error:
            self._stop_watching()
            self._arrive(error)
        self._stop_sending()

    async def receive(self, timeout: float) -> Message:
        if self._arrived:
            return self._next()
        if self._channel.closed:
            raise ChannelClosed("the channel is closed")
        if not self._watches:
            self._watch()
        waiter: asyncio.Future[Message] = self._loop.create_future()
        self._waiter = waiter
        self._due = due = self._loop.time() + timeout
        if self._timer is None or due < self._timer.when():
            self._set_timer(due)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # it came at the same moment
                self._keep(waiter)
            raise
        finally:
            self._waiter = None
            del waiter  # its error leads to this frame, and to what the caller's frames hold

    def hurry(self) -> None:
        """Have whoever waits for a message get TimeoutError now, if there is anybody."""
        if self._waiter is not None:
            _tell(self._waiter, TimeoutError())

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        """End a wait that is over. One timer serves all waits: most of them end before."""
        self._timer = None
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._loop.time() < self._due:
            self._set_timer(self._due)
            return
        self._read()  # uvloop does not say that the other end died with messages unread
        if not waiter.done():
            _tell(waiter, TimeoutError())

    def _keep(self, waiter: asyncio.Future[Message]) -> None:
        """What came for a wait that nobody waits for any more is for the next one."""
        error = waiter.exception()
        if error is None:
            self._arrived.appendleft(waiter.result())
        elif isinstance(error, Exception) and not isinstance(error, TimeoutError):
            self._arrived.appendleft(error)

    def _next(self) -> Message:
        came = self._arrived.popleft()
        if isinstance(came, Exception):
            raise came
        return came

    def _read(self) -> None:
        """The descriptor is ready."""
        channel = self._channel
        try:
            while (message := channel.receive_now()) is not None:
                self._arrive(message)
                if not channel.has_more:
                    break
        except ProtocolError as error:
            if channel.closed:
                self._stop_watching()
            self._arrive(error)
        except ChannelClosed as error:
            self._stop_watching()
            self._arrive(error)
        if self.receiver is not None:
            self.receiver.all_taken()
        if len(self._arrived) > _MOST_ARRIVED:
            self._stop_watching()

    def _arrive(self, came: Message | Exception) -> None:
        receiver = self.receiver
        if receiver is not None:
            if not isinstance(came, Exception):
                receiver.take(came)
                return
            self._arrived.append(came)
            receiver.stop()
            return
        waiter, self._waiter = self._waiter, None
        if waiter is not None and _tell(waiter, came):
            return
        self._arrived.append(came)
        if isinstance(came, ChannelClosed) and self.on_lost is not None:
            self.on_lost()

    def pause(self) -> None:
        self._stop_watching()

    def resume(self) -> None:
        if not self._channel.closed:
            self._watch()

    def _watch(self) -> None:
        self._watches = True
        self._loop.add_reader(self._reading, self._read)

    def _stop_watching(self) -> None:
        if self._watches:
            self._watches = False
            self._loop.remove_reader(self._reading)

    def _stop_sending(self) -> None:
        if self._sends:
            self._sends = False
            self._loop.remove_writer(self._writing)

    def close(self) -> None:
        if not self._loop.is_closed():
            self._stop_watching()
            self._stop_sending()
        if self._timer is not None:
            self._timer.cancel()
        self._channel.close()
        if self._waiter is not None or self.receiver is not None:
            self._arrive(ChannelClosed("the channel was closed while it waited"))


def _tell(waiter: asyncio.Future[Message], came: Message | Exception) -> bool:
    """Give what came to who waits for it.

    Returns:
        Whether somebody does. Ctrl-C under :func:`asyncio.run` cancels from a signal handler,
        which may be just now.
    """
    try:
        if isinstance(came, Exception):
            waiter.set_exception(came)
        else:
            waiter.set_result(came)
    except asyncio.InvalidStateError:
        return False
    return True


class _ThreadedChannel(LoopChannel):
    """A channel without a descriptor: one thread does what blocks, one thing after another."""

    def __init__(self, channel: Channel, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(channel, loop)
        self._steps: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        # Not a ThreadPoolExecutor: Python waits for the calls of those when it ends.
        threading.Thread(
            target=_do_each, args=[self._steps], name="soma-channel", daemon=True
        ).start()
        self._sending: asyncio.Future[None] | None = None
        self._receiving: asyncio.Future[Message] | None = None

    def send(self, *messages: Message) -> None:
        if self._channel.closed:
            raise ChannelClosed("the channel is closed")
        for message in messages:
            self._sending = self._do(partial(self._channel.send, message))

    @property
    def is_sending(self) -> bool:
        return self._sending is not None

    async def receive(self, timeout: float) -> Message:
        if self._sending is not None:
            if not await _ended_within(self._sending, timeout):
                raise TimeoutError
            sending, self._sending = self._sending, None
            sending.result()
        if self._receiving is None:
            if self._channel.closed:
                raise ChannelClosed("the channel is closed")
            self._receiving = self._do(partial(self._channel.receive, timeout))
        if not await _ended_within(self._receiving, timeout):
            raise TimeoutError
        receiving, self._receiving = self._receiving, None
        return receiving.result()

    def close(self) -> None:
        self._channel.close()
        self._steps.put(None)

    def _do(self, step: Callable[[], T]) -> asyncio.Future[T]:
        future: Future[T] = Future()
        self._steps.put((future, step))
        return asyncio.wrap_future(future, loop=self._loop)


def _do_each(steps: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]) -> None:
    while (next_one := steps.get()) is not None:
        future, step = next_one
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(step())
            except BaseException as error:
                future.set_exception(error)
        del next_one, future, step  # what was sent may be large


async def _ended_within(future: asyncio.Future[Any], timeout: float) -> bool:
    """Whether something has ended; it goes on if the caller is cancelled."""
    ended, _ = await asyncio.wait([future], timeout=timeout)
    return bool(ended)
