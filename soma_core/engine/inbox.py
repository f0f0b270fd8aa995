"""Inbox: the messages of a channel, each in its turn, and those that interrupt before theirs."""

from __future__ import annotations

import fcntl
import os
import select
from collections import deque

from soma_core.channel.contract import Channel
from soma_core.channel.watchable import WatchableChannel
from soma_core.errors import ChannelClosed, ProtocolError
from soma_core.protocol.commands import MessageId
from soma_core.protocol.dialects import read_fields
from soma_core.protocol.parsing import Envelope
from soma_core.wire.message import Message

_MOST_WAITING = 64  # messages; what comes after them is left in the channel
_LONGEST_INTERRUPT = 4096  # bytes


class Inbox:
    """What comes over a channel, for a process that executes one command at a time.

    A host that cannot send a signal interrupts with a message. So the kernel sends SIGIO when
    something comes (:meth:`announce`), and while a command runs, the handler of that signal looks
    what it is. What is not for now waits here.

    Attributes:
        can_announce: Whether the channel has a descriptor that the kernel can watch.
        announced: Whether the kernel watches it.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        watchable = channel if isinstance(channel, WatchableChannel) else None
        self._descriptors = None if watchable is None else watchable.descriptors
        self._watchable = watchable
        self._waiting: deque[Message | ProtocolError] = deque()
        self._named: set[MessageId] = set()
        self._poller = select.poll()
        self._looking = self._ended = False
        self.can_announce = self._descriptors is not None
        self.announced = False

    @property
    def has_waiting(self) -> bool:
        """Whether a message was read before its turn."""
        return bool(self._waiting)

    def announce(self) -> None:
        """Have the kernel send SIGIO to this process whenever something comes."""
        if self._descriptors is not None and not self.announced:
            fd = self._descriptors.reading
            self._poller.register(fd, select.POLLIN)
            fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
            self.announced = True

    def receive(self, timeout: float | None = None) -> Message:
        """The next message, as :meth:`Channel.receive` returns and raises.

        Args:
            timeout: Seconds to wait; None waits for ever.
        """
        if not self._waiting:
            return self._channel.receive(timeout)
        message = self._waiting.popleft()
        if isinstance(message, ProtocolError):
            raise message
        if self._named:  # what an INTERRUPT names was sent before it, and is over now
            self._named.discard(_named_by(message))
        return message

    def look(self) -> None:
        """Read what has come. A look in the middle of another leaves the rest to that one."""
        more = self._watchable is not None and self._watchable.has_more
        while (more or self._poller.poll(0)) and self._has_room:
            if self._looking:
                return
            self._looking = True
            try:
                more = self._take_one()
            finally:
                self._looking = False

    def names(self, command: MessageId | None) -> bool:
        """Whether a message that waits interrupts a command."""
        return command in self._named

    def take_settled(self) -> Message | None:
        """The message that is next, if it need not be executed: one that waits interrupts it, or
        it is itself one that interrupts."""
        message = self._waiting[0] if self._waiting else None
        if message is None or isinstance(message, ProtocolError):
            return None
        settled = self.names(Envelope.of(message).id) or _named_by(message) is not None
        return self.receive() if settled else None

    @property
    def _has_room(self) -> bool:
        return not self._ended and len(self._waiting) < _MOST_WAITING

    def _take_one(self) -> bool:
        """Take a message, if a whole one has come; whether there was one."""
        assert self._watchable is not None
        try:
            message = self._watchable.receive_now()
        except ChannelClosed:  # which whoever receives next finds out as well
            self._ended = True
            return False
        except ProtocolError as error:
            self._waiting.append(error)
            return True
        if message is None:
            return False
        self._waiting.append(message)
        named = _named_by(message)
        if named is not None:
            self._named.add(named)
        return True


def _named_by(message: Message) -> MessageId | None:
    """The id of the command that a message interrupts; None if it is no INTERRUPT."""
    if len(message.header) > _LONGEST_INTERRUPT or b"INTERRUPT" not in bytes(message.header):
        return None
    try:
        fields = read_fields(message)
    except ProtocolError:  # the reply to it, in its turn, says what is wrong
        return None
    named = fields.get("command")
    return named if fields.get("cmd") == "INTERRUPT" and type(named) in (str, int) else None
