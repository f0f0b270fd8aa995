"""The host's side: starts the child and talks to it over a socket pair."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from pydantic import Field, field_validator

from soma_core.streams import SharedMemory, SocketStream, StreamChannel, StreamLimits
from soma_core.transport import (
    Channel,
    ExitStatus,
    MemorySize,
    OutputOptions,
    OutputPump,
    PluginOptions,
    Transport,
    TransportOptions,
    WorkerProcess,
    plugin_variables,
    starting,
    stop_at_exit,
    thread_limits,
)


class StdioOptions(OutputOptions):
    """Options of the stdio transport.

    Attributes:
        python: The interpreter of the worker; it needs soma-core installed.
        command: A whole command instead, for launchers; ``--pickle=…``, ``--memory-limit=…`` and
            ``--nice=…`` are added to it, and ``--env=NAME=VALUE``, percent-encoded, for what
            ``threads``, ``allow_modules``, ``limits`` and ``plugins`` set:
            ``["ssh", "box", "python", "-m", "soma_transport_stdio"]``.
        env: Variables to add to the worker's environment; they go before ``threads``.
        env_inherit: Whether the worker gets this process's environment. Without, it gets ``PATH``,
            ``HOME``, ``USER``, ``LOGNAME``, ``SHELL``, ``TMPDIR``, ``TZ``, the language, and what
            ``env`` says: no tokens or passwords that are there for somebody else.
        cwd: The worker's working directory.
        allow_modules: With ``pickle="never"``, modules that a filter's configuration may name and
            have imported, beside those that the filter always allows.
        limits: The largest messages that either side accepts.
        plugins: Options of plugins, by plugin, for the worker and for this process.
        memory_limit: Memory of its own that the worker, and each of its children, may take, in
            bytes or as in ``"4G"``; a filter that asks for more gets a MemoryError. None for any.
        nice: By how much the worker's priority is lowered, as for the command ``nice``:
            0 to 19.
    """

    python: str | Path = Field(default_factory=lambda: sys.executable)
    command: list[str] | None = Field(default=None, min_length=1)
    env: Mapping[str, str] = Field(default_factory=dict)
    env_inherit: bool = True
    cwd: str | Path | None = None
    allow_modules: Sequence[str] = ()
    limits: StreamLimits = Field(default_factory=StreamLimits)
    plugins: PluginOptions = Field(default_factory=dict)
    memory_limit: MemorySize | None = None
    nice: int = Field(default=0, ge=0, le=19)

    @field_validator("command", mode="before")
    @classmethod
    def _is_a_list(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError(f"a list of words is expected, got {value!r}; give {value.split()}")
        return value


class StdioTransport(Transport):
    """Runs the worker as a child process of the host; it ends with the host."""

    name: ClassVar[str] = "stdio"
    Options: ClassVar[type[TransportOptions]] = StdioOptions
    options: StdioOptions

    def __init__(self, options: StdioOptions) -> None:
        super().__init__(options)
        if options.command is None:  # a child of ours; a launcher may take longer to end
            self.status_delay = 0.25
        self._process: WorkerProcess | None = None
        self._channel: StreamChannel | None = None

    @staticmethod
    def serve(arguments: list[str]) -> int:
        """Serve on this process's own stdin and stdout: what ``soma serve stdio`` does."""
        command = [sys.executable, "-P", "-m", "soma_transport_stdio", *arguments]
        os.execv(sys.executable, command)

    def start(self, timeout: float | None = None) -> Channel:
        with ExitStack() as theirs, ExitStack() as undo:
            channel, wire, side = self._make_channel()
            undo.callback(channel.close)
            theirs.enter_context(wire)
            theirs.enter_context(side)
            self.output = OutputPump(self.options.output)
            self._process = WorkerProcess(
                self._command(),
                output=self.output,
                wire=wire.fileno(),
                side=side,
                env={**self._variables(), **self.options.env},
                inherits=self.options.env_inherit,
                cwd=self.options.cwd,
            )
            undo.pop_all()
        self._channel = channel
        stop_at_exit(self, channel)
        return channel

    def _make_channel(self) -> tuple[StreamChannel, socket.socket, socket.socket]:
        """A channel, and the worker's ends of its wire and its side socket."""
        options = self.options
        with starting("make sockets to a worker"), ExitStack() as undo:
            ours, wire = map(undo.enter_context, socket.socketpair())
            side, their_side = map(undo.enter_context, socket.socketpair())
            memory = SharedMemory(
                side, initiate=True, largest=options.limits.body, retained=options.retained
            )
            channel = StreamChannel(SocketStream(ours), options.limits, memory)
            undo.pop_all()
        return channel, wire, their_side

    def _command(self) -> Sequence[str]:
        options = self.options
        arguments = [f"--pickle={options.pickle}"]
        if options.memory_limit is not None:
            arguments.append(f"--memory-limit={options.memory_limit}")
        if options.nice:
            arguments.append(f"--nice={options.nice}")
        if options.command is None:
            return [str(options.python), "-P", "-m", "soma_transport_stdio", *arguments]
        variables = self._variables().items()  # ssh hands no environment on
        handed = (f"--env={name}={quote(value)}" for name, value in variables)  # through shells
        return [*options.command, *arguments, *handed]

    def _variables(self) -> dict[str, str]:
        allowed = ",".join(self.options.allow_modules)
        return {
            **thread_limits(self.options.threads),
            **({"SOMA_ALLOW_MODULES": allowed} if allowed else {}),
            **self.options.limits.as_environment(),
            **plugin_variables(self.options.plugins, inherits=self.options.env_inherit),
        }

    def poll(self) -> ExitStatus | None:
        return None if self._process is None else self._process.poll()

    def interrupt(self) -> None:
        # A launcher such as ssh would take the signal for itself and leave the worker running.
        if self._process is not None and self.options.command is None:
            self._process.interrupt()

    @property
    def interrupts_by_message(self) -> bool:
        return self.options.command is not None

    def runs_here(self, pid: int) -> bool:
        return self._process is not None and self._process.started(pid)

    @property
    def shares_files(self) -> bool:
        return self.options.command is None  # a launcher may lead anywhere

    def stop(self, grace: float) -> ExitStatus | None:
        if self._channel is not None:
            self._channel.close()
        if self._process is None:
            return None
        if grace and self._process.wait(grace / 2) is None:
            self.interrupt()  # once more: a command may not have begun when it was interrupted
        return self._process.stop(grace / 2)
