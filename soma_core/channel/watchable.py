"""WatchableChannel: a channel that an event loop can watch, since it has a descriptor."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from soma_core.channel.contract import Channel
from soma_core.wire.message import Message


class Descriptors(NamedTuple):
    """The file descriptors of a channel; they may be one and the same.

    Attributes:
        reading: Ready to be read when a message, or a part of one, or the end has come.
        writing: Ready to be written when more can be sent.
    """

    reading: int
    writing: int


class WatchableChannel(Channel):
    """A channel that can be used without waiting, by one thread.

    ``soma.connect_async`` uses it where there is one; of any other channel it calls the methods
    that wait in a thread.
    """

    @property
    @abstractmethod
    def descriptors(self) -> Descriptors | None:
        """What an event loop can watch; None if there is nothing, as of a stream without any."""

    @abstractmethod
    def send_now(self, *messages: Message) -> bool:
        """Send as much of one or more messages as can be sent without waiting.

        Returns:
            Whether that is all of it. If not, call :meth:`flush_now` when the descriptor is ready,
            and send no other message before that has returned True.

        Raises:
            ChannelClosed: As for :meth:`send`.
        """

    @abstractmethod
    def flush_now(self) -> bool:
        """Send more of what was not sent whole; returns whether all of it is sent.

        Raises:
            ChannelClosed: As for :meth:`send`.
        """

    @abstractmethod
    def receive_now(self) -> Message | None:
        """The next message, if all of it has come; reads once from the descriptor, if at all.

        Raises:
            ChannelClosed, ProtocolError: As for :meth:`receive`.
        """

    def take_back(self) -> int:
        """Take back the last messages that were sent whole, which the other end has not taken yet.

        Returns:
            How many that are: none, if the channel cannot do so.
        """
        return 0

    @property
    @abstractmethod
    def has_more(self) -> bool:
        """Whether something was read that may be a message, or its end: then ask again at once."""
