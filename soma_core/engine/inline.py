"""The inline transport: the engine in the caller's own process, where ``breakpoint()`` works."""

from __future__ import annotations

import pickle
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar
from uuid import uuid4
from weakref import WeakValueDictionary

from pydantic import Field

from soma_core.channel.contract import Channel, ExitStatus, Transport, TransportOptions
from soma_core.engine.failures import OF_SOMA, exception_of
from soma_core.engine.serving import Responder
from soma_core.errors import ChannelClosed, RemoteError, SomaError
from soma_core.plugins.manager import installed_plugins
from soma_core.plugins.options import PluginOptions
from soma_core.wire.message import Message


class InlineOptions(TransportOptions):
    """Options of the inline transport.

    Attributes:
        plugins: Options of plugins, by plugin.
    """

    plugins: PluginOptions = Field(default_factory=dict)


class InlineTransport(Transport):
    """Runs filters in the host's process, with the same messages as any other transport.

    Made for debugging and for tests: there is no isolation, and a deadline cannot end a command
    that runs.
    """

    name: ClassVar[str] = "inline"
    in_this_process: ClassVar[bool] = True
    Options: ClassVar[type[TransportOptions]] = InlineOptions
    options: InlineOptions

    def __init__(self, options: InlineOptions) -> None:
        super().__init__(options)
        self._channel: _InlineChannel | None = None

    def start(self, timeout: float | None = None) -> Channel:
        self._channel = _InlineChannel(self.options)
        return self._channel

    def poll(self) -> ExitStatus | None:
        ended = self._channel is not None and self._channel.closed
        return ExitStatus(code=0) if ended else None

    def interrupt(self) -> None:
        """Does nothing: the command runs on the thread that would have to interrupt it."""

    def runs_here(self, pid: int) -> bool:
        return True

    def lend(self, obj: Any) -> bytes | None:
        if not self.alone:
            return None
        return _Loan(_Lent(obj))

    def explain(self, error: SomaError) -> None:
        raised = None if self._channel is None else self._channel.take_raised()
        if raised is not None and isinstance(error, RemoteError):
            error.take_frames(raised, leave_out=OF_SOMA)

    def stop(self, grace: float) -> ExitStatus | None:
        if self._channel is not None:
            self._channel.close()
        return ExitStatus(code=0)


class _Lent:
    """An object that stays itself when it is pickled and read back in this process."""

    def __init__(self, obj: Any) -> None:
        self._obj = obj
        self._token = uuid4().hex
        _lent[self._token] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return _Lent.find, (self._token,)

    @staticmethod
    def find(token: str) -> Any:
        """The object that was lent under a token; its loan keeps it."""
        return _lent[token]._obj


class _Loan(bytes):
    """The pickle of an object that is lent, as long as somebody may read it."""

    _lent: _Lent

    def __new__(cls, lent: _Lent) -> _Loan:
        loan = super().__new__(cls, pickle.dumps(lent))
        loan._lent = lent
        return loan


_lent: WeakValueDictionary[str, _Lent] = WeakValueDictionary()


class _Responder(Responder):
    """Keeps what a reply tells of, for a host that is in the same process."""

    raised: BaseException | None = None

    def _failure(self, error: BaseException, *where: Any) -> Message:
        self.raised = exception_of(error)
        return super()._failure(error, *where)


class _InlineChannel(Channel):
    """Both ends at once: ``send`` executes the command, ``receive`` returns what it replied."""

    def __init__(self, options: InlineOptions) -> None:
        plugins = installed_plugins().configured(options.plugins)
        plugins.check_take_part(options.plugins)
        self._responder = _Responder(pickle=options.pickle, plugins=plugins)
        self._replies: deque[Message] = deque()
        self._closed = False

    def send(self, message: Message, timeout: float | None = None) -> None:
        if self._closed or self._responder.finished:
            raise ChannelClosed("the channel is closed")
        with _ctrl_c_goes_on():
            self._keep(self._responder.respond(_copied(message), self._keep))

    def take_raised(self) -> BaseException | None:
        """The exception that the last reply tells of, once."""
        raised, self._responder.raised = self._responder.raised, None
        return raised

    def _keep(self, reply: Message) -> None:
        self._replies.append(_copied(reply))

    def receive(self, timeout: float | None = None) -> Message:
        if self._replies:
            return self._replies.popleft()
        if self._closed or self._responder.finished:
            raise ChannelClosed("the channel is closed")
        raise TimeoutError("no command was sent, so no reply can come")

    def close(self) -> None:
        self._closed = True
        self._responder.engine.close()

    @property
    def closed(self) -> bool:
        return self._closed


@contextmanager
def _ctrl_c_goes_on() -> Iterator[None]:
    """Let Ctrl-C end the command and then reach the caller, as over any other transport.

    A KeyboardInterrupt that the filter raises itself is an error reply like any other.
    """
    before = signal.getsignal(signal.SIGINT)
    on_main_thread = threading.current_thread() is threading.main_thread()
    if before is not signal.default_int_handler or not on_main_thread:
        yield
        return
    pressed = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _copied(message: Message) -> Message:
    """With buffers of its own, so that neither side sees what the other does to an array."""
    buffers: list[Any] = [bytearray(buffer) for buffer in message.buffers]
    return Message(message.header, buffers, message.dialect)
