"""The host's side: reaches the daemon at a path, and asks it about its worker."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from pydantic import ValidationError

from soma_core.errors import StartFailed
from soma_core.streams import (
    SharedMemory,
    SocketStream,
    StreamChannel,
    raise_error_of_handler,
)
from soma_core.transport import (
    Channel,
    DaemonInfo,
    Deadline,
    ExitStatus,
    OutputPump,
    SessionInfo,
    Transport,
    TransportOptions,
    starting,
    stop_at_exit,
)
from soma_transport_socket import address
from soma_transport_socket.ask import Control, ask, ask_once
from soma_transport_socket.messages import Answer, Brought, Question, Request
from soma_transport_socket.options import SocketOptions

__all__ = ["SocketOptions", "SocketTransport"]

_log = logging.getLogger("soma.transport.socket")
_PATIENCE = 2.0  # seconds that a daemon may take to appear
_POLL = 0.02
_ASIDE = 0.2  # seconds for a question beside the channel
_END = 5.0  # seconds for a session to end that is stopped
_GENTLE = 0.5  # seconds for a worker to end after SIGTERM
_FORCE = 1.0  # and after SIGKILL
_LAST_WORDS = 0.5  # seconds to wait for the end of what a worker printed
_GONE = Answer(ok=False, ended=True, error="the daemon does not know the worker any more")
"""The daemon is gone or has forgotten the worker: either way the worker has ended."""


class SocketTransport(Transport):
    """Uses a worker of a daemon that was started before: ``soma serve socket``."""

    name: ClassVar[str] = "socket"
    Options: ClassVar[type[TransportOptions]] = SocketOptions
    options: SocketOptions

    def __init__(self, options: SocketOptions) -> None:
        super().__init__(options)
        self._channel: StreamChannel | None = None
        self._control: Control | None = None
        self._last: Answer | None = None

    @staticmethod
    def serve(arguments: list[str]) -> int:
        """Run the daemon: what ``soma serve socket`` does. Returns the exit status."""
        from soma_transport_socket.daemon.__main__ import run

        return run(arguments)

    @staticmethod
    def sessions(path: Path | None = None) -> list[SessionInfo]:
        """The sessions of the daemon at a path; the default is the user's own.

        Raises:
            StartFailed: No daemon answers there.
        """
        return _consult(path, Request(op="sessions")).sessions

    @staticmethod
    def status(path: Path | None = None) -> DaemonInfo:
        """The daemon at a path, and the workers of this user; the default is the user's own.

        Raises:
            StartFailed: No daemon answers there.
        """
        found = _consult(path, Request(op="daemon")).daemon
        if found is None:
            raise StartFailed("the daemon is older than this command, and says nothing of itself")
        return found

    @staticmethod
    def stop_session(name: str, path: Path | None = None) -> None:
        """End a session for all its clients, whatever runs in it; returns when it has ended.

        Raises:
            StartFailed: No daemon answers at the path, or it knows no such session.
        """
        try:
            request = Request(op="stop", session=name)
        except ValidationError:
            raise StartFailed(f"{name!r} is not what a session may be called") from None
        answer = _consult(path, request)
        deadline = Deadline.after(_END)
        while not answer.ended and not deadline.over():
            time.sleep(_POLL)
            answer = _consult(path, Request(op="status", worker=answer.worker))

    def start(self, timeout: float | None = None) -> Channel:
        options = self.options
        with starting("make sockets to a worker"), ExitStack() as undo:
            connection = undo.enter_context(self._connect(timeout))
            output = OutputPump(options.output)
            undo.callback(output.close)
            side, their_side = map(undo.enter_context, socket.socketpair())
            control, their_control = map(undo.enter_context, socket.socketpair())
            attached: dict[Brought, int] = {
                "memory": their_side.fileno(),
                "output": output.writing,
                "control": their_control.fileno(),
            }
            if options.session is not None:
                attached["printed"] = output.reading
            answer = self._ask_for_worker(connection, attached)
            their_side.close()
            their_control.close()
            memory = SharedMemory(
                side, initiate=True, largest=options.limits.body, retained=options.retained
            )
            channel = StreamChannel(SocketStream(connection), options.limits, memory)
            undo.callback(channel.close)
            session = options.session
            output.start(f"worker {answer.pid}" if session is None else f"session {session}")
            undo.pop_all()
        self._control, self._last = Control(control), None
        self._channel, self.output = channel, output
        stop_at_exit(self, channel)
        return channel

    def _ask_for_worker(self, connection: socket.socket, attached: Mapping[Brought, int]) -> Answer:
        request = Request(
            op="connect",
            session=self.options.session,
            pickle=self.options.pickle,
            threads=self.options.threads,
        )
        try:
            answer = ask(connection, request, attached)
        except OSError as error:
            raise StartFailed(f"the daemon at {self.options.path}: {error}") from error
        if not answer.ok:
            reason = answer.error or ""
            remedy = "; is it of an older soma? Restart it" if "not a request" in reason else ""
            raise StartFailed(f"the daemon at {self.options.path} refused: {reason}{remedy}")
        if answer.warning is not None:
            _log.warning("the daemon at %s: %s", self.options.path, answer.warning)
        return answer

    def _connect(self, timeout: float | None) -> socket.socket:
        path = self.options.path
        appears = Deadline.after(timeout).within(_PATIENCE)
        while True:
            try:
                return address.connect(path, timeout, self.options.owner)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if appears.over():
                    raise StartFailed(
                        f"no daemon listens at {path} ({error.strerror}); start one with: "
                        f"soma serve socket --path {path}"
                    ) from None
            except OSError:
                with starting(f"connect to {path}"):
                    raise
            time.sleep(_POLL)

    def poll(self) -> ExitStatus | None:
        answer = self._ask("status")
        if answer is None or not answer.ended:
            return None
        return ExitStatus(answer.code, answer.signal)

    def interrupt(self) -> None:
        self._ask("interrupt")

    def runs_here(self, pid: int) -> bool:
        return self._control is not None

    @property
    def shares_files(self) -> bool:
        return True

    def stop(self, grace: float) -> ExitStatus | None:
        """End a worker of our own; a session is only left."""
        if self.options.session is None:
            return self.shutdown(grace)
        if self._channel is not None:
            self._channel.close()
        if self._control is not None:
            self._control.close()
        if self.output is not None:
            self.output.finish(0.0)
        return None

    def shutdown(self, grace: float) -> ExitStatus | None:
        if self._channel is not None:
            self._channel.close()
        status = self._wait(grace)
        forces: tuple[tuple[Question, float], ...] = (("terminate", _GENTLE), ("kill", _FORCE))
        for force, patience in forces:
            if status is not None or self._is_silent:
                break
            self._ask(force)
            status = self._wait(patience)
        if self._control is not None:
            self._control.close()
        if self.output is not None:
            self.output.finish(_LAST_WORDS)
        return status

    def _wait(self, seconds: float) -> ExitStatus | None:
        deadline = Deadline.after(seconds)
        while (status := self.poll()) is None and not deadline.over():
            time.sleep(_POLL)
        return status

    def diagnostics(self) -> str:
        printed = super().diagnostics()
        if printed:
            return printed
        patience = 0.0 if self._is_silent else _FORCE
        answer = self._ask("status", patience)  # what it printed before it had our pipe
        return answer.stderr if answer is not None else ""

    @property
    def _is_silent(self) -> bool:
        return self._control is not None and self._control.is_silent

    def _ask(self, op: Question, patience: float = _ASIDE) -> Answer | None:
        """Ask about our worker: the last that is known; None if that is nothing."""
        if self._control is None:
            return None
        if self._last is None or not self._last.ended:
            try:
                answer = self._control.ask(Request(op=op), patience)
            except TimeoutError as error:  # it cannot be asked now: that says nothing about it
                raise_error_of_handler(error)
                return self._last
            self._last = answer if answer is not None and answer.ok else _GONE
        return self._last


def _consult(path: Path | None, request: Request) -> Answer:
    path = path or address.default_path()
    try:
        answer = ask_once(path, request, _PATIENCE)
    except OSError as error:
        raise StartFailed(f"the daemon at {path} does not answer: {error}") from error
    if answer is None:
        raise StartFailed(
            f"no daemon listens at {path}; start one with: soma serve socket --path {path}"
        )
    if not answer.ok:
        raise StartFailed(f"the daemon at {path} refused: {answer.error}")
    return answer
