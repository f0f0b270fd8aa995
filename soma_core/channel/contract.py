"""The contract of a transport: Channel, Transport, and what they say of each other.

A transport carries bytes. Commands, replies, handshakes, deadlines, retries and states are the
business of ``soma_core``; a transport never looks inside a message.
"""

from __future__ import annotations

import logging
import signal as signals
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from soma_core.channel.output import Output, OutputPump
from soma_core.channel.region_table import RETAINED
from soma_core.errors import SomaError
from soma_core.models.filters import Distribution
from soma_core.wire.message import Message

_LAST_WORDS = 0.5  # seconds to wait for the end of a dead worker's output


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a worker ended.

    Attributes:
        code: The exit status; None if a signal ended it, or if it is not known.
        signal: The number of the signal that ended it, or None.
    """

    code: int | None = None
    signal: int | None = None

    @classmethod
    def from_returncode(cls, returncode: int) -> ExitStatus:
        """From the ``returncode`` of :mod:`subprocess`.

        Args:
            returncode: The exit status, or the negative number of the signal that ended it.
        """
        return cls(signal=-returncode) if returncode < 0 else cls(code=returncode)

    @property
    def signal_name(self) -> str | None:
        """The signal by name: ``"SIGKILL"``."""
        if self.signal is None:
            return None
        try:
            return signals.Signals(self.signal).name
        except ValueError:  # a real-time signal has no name in Python
            return f"signal {self.signal}"

    def __str__(self) -> str:
        if self.signal is not None:
            return f"was killed by {self.signal_name}"
        return (
            "ended, exit status unknown" if self.code is None else f"exited with status {self.code}"
        )


class SessionInfo(NamedTuple):
    """A worker that clients share by a name: what ``soma sessions`` lists.

    A transport that has such workers defines static methods ``sessions(path) -> list`` of these
    and ``stop_session(name, path)``; a path of None is its default.

    Attributes:
        name: What clients call it.
        pid: Its process.
        clients: How many are connected.
        command: The command that runs, or None.
        node_id: The node that it runs on, or None.
        seconds: How long it has been running.
        memory: Bytes that it has in memory.
    """

    name: str
    pid: int
    clients: int
    command: str | None
    node_id: str | None
    seconds: float
    memory: int


class WorkerInfo(NamedTuple):
    """A worker of a daemon: a line of ``soma status``.

    Attributes:
        pid: Its process.
        session: What clients call it, if they share it; None for one client's own.
        clients: How many are connected.
        seconds: How long it has been running.
        command: The command that runs, or None; None also for one client's own, of which the
            daemon does not know.
        node_id: The node that it runs on, or None.
        memory: Bytes that it has in memory.
    """

    pid: int
    session: str | None
    clients: int
    seconds: float
    command: str | None
    node_id: str | None
    memory: int


class DaemonInfo(NamedTuple):
    """A daemon: what ``soma status`` shows.

    A transport that has one defines a static method ``status(path) -> DaemonInfo``; a path of None
    is its default. It starts no worker.

    Attributes:
        pid: Its process.
        soma: Its version of soma.
        seconds: How long it has been running.
        memory: Bytes that it has in memory itself.
        workers: Those of the user who asks.
    """

    pid: int
    soma: str
    seconds: float
    memory: int
    workers: Sequence[WorkerInfo]


def _level(level: Any) -> Any:
    if not isinstance(level, str):
        return level
    levels = logging.getLevelNamesMapping()
    if level.upper() not in levels:
        raise ValueError(f"one of {', '.join(levels)} or a number is expected, got {level!r}")
    return levels[level.upper()]


class Channel(ABC):
    """Carries whole messages both ways, in order, between one host and one engine.

    Both ends use the same class. One thread sends and receives at a time; ``close`` may be
    called from any thread and wakes one that waits.
    """

    @abstractmethod
    def send(self, message: Message, timeout: float | None = None) -> None:
        """Send one message. Called by a Worker for each command and by ``serve`` for each reply.

        Args:
            message: What to send; its buffers are not kept after the return.
            timeout: Seconds that it may take; None waits for ever.

        Raises:
            TimeoutError: Not all of it could be written in time. If any was, the channel is
                closed: the other end could not tell the rest of it from the next message.
            ChannelClosed: The channel is closed, by either end. Its ``sent`` is True if the
                other end may have received some of the message: then it is not sent again.
            ProtocolError: ``too_large``: the other end takes no such message. Nothing was sent.
        """

    @abstractmethod
    def receive(self, timeout: float | None = None) -> Message:
        """Wait for one message. Called by a Worker for each reply and by ``serve`` in its loop.

        Args:
            timeout: Seconds to wait; None waits for ever. After a timeout the channel is as
                usable as before, and what had arrived of a message is not lost.

        Raises:
            TimeoutError: No whole message came in time.
            ChannelClosed: The channel is closed, by either end, and everything that came
                before the end was received.
            ProtocolError: ``malformed`` or ``too_large``: what came is not a message. It has
                been skipped; if the start of the next could not be found, the channel is closed.
        """

    @abstractmethod
    def close(self) -> None:
        """Close it; the other end receives what was sent, then ChannelClosed. Never raises.

        Called by ``Worker.close`` from any thread, by a Transport's ``stop``, and by ``serve``
        at its end. A second call does nothing.
        """

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether this end is closed."""

    @property
    def unread(self) -> bytes:
        """The start of what came and is no whole message yet, if that is known.

        It is quoted where an engine does not answer at all.
        """
        return b""


class TransportOptions(BaseModel):
    """Base of a transport's options: what a user gives to ``soma.connect(name, …)``.

    Attributes:
        pickle: ``"never"`` where the engine must refuse pickles; whatever serves the engine
            hands it on to ``serve``.
        log_level: From which level on what filters log comes to the loggers of this process: a
            number or a name. None: from the levels of the loggers here, as they are when a call
            begins. An engine in this process logs here anyway.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    pickle: Literal["same-user", "never"] = "same-user"
    log_level: Annotated[int | None, BeforeValidator(_level)] = None

    def least_level(self) -> int:
        """From which level on records come here."""
        return logging.getLogger().level if self.log_level is None else self.log_level

    @property
    def shared(self) -> bool:
        """Whether every start with these options may reach one and the same engine."""
        return False

    def placed(self, distributions: Iterable[Distribution]) -> Self:
        """These options, so that the filters to be loaded run where their metas say.

        Called by ``soma.connect`` and WorkerPool before a start, with the distribution of each
        filter. The default heeds none: the engine runs where the transport always runs it.

        Args:
            distributions: What the meta of each filter says.

        Raises:
            ValueError: They contradict each other, or these options.
        """
        return self


class ProcessOptions(TransportOptions):
    """Base of the options of a transport that has the worker's process started for it.

    Attributes:
        threads: How many threads each numerical library of the worker may start (BLAS, OpenMP,
            numexpr, numba). The libraries read it when they are imported, so it belongs into
            the environment that the process starts with. None leaves the worker alone.
        retained: How many bytes of shared memory an idle worker and its host keep for the next
            arrays, each way. More is kept while calls follow each other within 5 seconds.
    """

    threads: int | None = Field(default=None, ge=1)
    retained: int = Field(default=RETAINED, ge=0)


class OutputOptions(ProcessOptions):
    """Base of the options of a transport that reads what the worker prints.

    Attributes:
        output: Where the host shows it, line by line. ``"stderr"``: on its own stderr, each line
            marked with the worker and the node. ``"log"``: in the log, logger ``soma.worker``,
            level INFO. ``"devnull"``: nowhere. A path: at the end of that file. A function: it is
            called with each line, a ``str`` with the attributes ``worker`` and ``node_id``, from
            any thread; what it raises is reported once and changes nothing.
    """

    output: Output = "stderr"


class Transport(ABC):
    """How a host gets a channel to an engine: the life of one worker, apart from the channel.

    A subclass sets ``name`` and ``Options``, and is found through the entry-point group
    ``soma.transports``. ``soma_core`` calls ``start`` once for each incarnation of the worker.

    Args:
        options: The validated options.

    Attributes:
        output: What reads the output of the worker, if ``start`` made that: an
            :class:`OutputPump`. A Worker says to it which node a call is for, and has it show
            what was printed before the call returns.
    """

    name: ClassVar[str]
    Options: ClassVar[type[TransportOptions]] = TransportOptions
    output: OutputPump | None = None

    in_this_process: ClassVar[bool] = False
    """Whether the engine runs in this process, on the thread that calls ``send``."""

    alone: bool = True
    """Whether no other engine is given the same filters; set before ``start``."""

    status_delay: float = 1.0
    """Seconds after which ``poll`` says how an engine ended whose channel closed. One that closed
    it and goes on is ended then: nobody can reach it."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def start(self, timeout: float | None = None) -> Channel:
        """Start or reach an engine. Called by ``soma.connect``, and again after a ``stop``.

        Args:
            timeout: Seconds that it may take; None waits for ever.

        Raises:
            StartFailed: It did not come up; the message says why and what to do.
        """

    @abstractmethod
    def poll(self) -> ExitStatus | None:
        """Whether the engine's process has ended, and how; None while it runs.

        Called several times a second while a Worker waits for a reply, and when a channel
        closes. Must return quickly and never raises.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Ask the engine to give up the command that runs, as Ctrl-C would. Never raises.

        Called by ``Worker.interrupt`` and at a deadline, repeatedly, from any thread. A
        transport that cannot do it does nothing: the Worker then stops the engine.
        """

    @abstractmethod
    def stop(self, grace: float) -> ExitStatus | None:
        """End the engine and free what ``start`` took, whatever state it is in. Never raises.

        Called by ``Worker.close`` after the channel is closed, at a deadline that an interrupt
        did not meet, and after a start whose HELLO failed; a ``start`` that raises frees what it
        took by itself. A second call does nothing.

        Args:
            grace: Seconds in which the engine may end by itself before it is made to.

        Returns:
            How it ended, if that is known.
        """

    def diagnostics(self) -> str:
        """What a person should read when the worker died: the last it printed. Never raises.

        Called when a WorkerDied or StartFailed is built. The default is the tail of ``output``.
        """
        if self.output is None:
            return ""
        if self.poll() is not None:
            self.output.finish(_LAST_WORDS)
        return self.output.tail()

    def runs_here(self, pid: int) -> bool:
        """Whether the process of this id, which the engine said is its own, is on this machine.

        Called by ``Worker.status`` before it looks at what the process uses. The default is no.

        Args:
            pid: The process id that the engine gave in HELLO.
        """
        return False

    @property
    def interrupts_by_message(self) -> bool:
        """Whether a command is interrupted by a message over the channel, as no signal can reach
        the engine.

        The engine has to take such messages: ``serve`` does over a :class:`StreamChannel`. Where
        it does not, ``interrupt`` is called.
        """
        return False

    @property
    def shares_files(self) -> bool:
        """Whether the engine sees this machine's files under the same names.

        Then it imports modules from where this program imports them. The default is no: what the
        engine cannot import is sent whole.
        """
        return False

    def lend(self, obj: Any) -> bytes | None:
        """A pickle that gives back the very object, for an engine in this process; else None.

        Called for each filter object that is loaded.

        Args:
            obj: The filter.
        """
        return None

    def explain(self, error: SomaError) -> None:  # noqa: B027 - a default, not a duty
        """Add to the error of a call what only the transport knows. Never raises.

        Called before the error is raised. The default adds nothing; an engine in this process
        gives a RemoteError the frames of the exception, in which debuggers see variables.

        Args:
            error: What the call raises.
        """

    def shutdown(self, grace: float) -> ExitStatus | None:
        """End the engine even if it is shared with other clients. Never raises.

        Called by ``Worker.shutdown``. The default is ``stop``.

        Args:
            grace: Seconds in which the engine may end by itself before it is made to.

        Returns:
            How it ended, if that is known.
        """
        return self.stop(grace)
