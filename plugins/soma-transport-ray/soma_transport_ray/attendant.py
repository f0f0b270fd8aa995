"""The attendant: looks at an engine from outside of it, on the engine's machine.

Where that is the host's machine, the host does it itself; elsewhere an actor does, one on each
node for all engines of the host there.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from soma_core.streams import raise_error_of_handler
from soma_core.transport import close_in_forked_child
from soma_transport_ray.cluster import Cluster
from soma_transport_ray.engine import Whereabouts
from soma_transport_ray.printed import Span, read
from soma_transport_ray.slate import SlateReader, Turn

_PATIENCE = 1.0  # seconds for an answer from another machine
_NOTHING: tuple[list[bytes], Span] = ([], (0, 0))


class Attendant(Protocol):
    """What can be asked about an engine; nothing of it raises, but what a signal handler does."""

    def ended(self) -> bool:
        """Whether its process is known to have ended; costs next to nothing."""

    def look(self) -> bool:
        """Whether its process has ended; may learn it only after it was asked again."""

    def wait(self, seconds: float) -> bool:
        """Whether its process ends within so many seconds."""

    def interrupt(self, turn: Turn) -> None:
        """End a command that runs by SIGINT, and keep one that waits from being executed."""

    def shown(self, turn: Turn, seen: int) -> tuple[list[bytes], Span]:
        """What a command that runs has reported, beyond what was seen, and what it has printed."""

    def printed(self, span: Span) -> bytes:
        """Some of what was printed, of a part that begins there; nothing where there is none."""

    def kill(self) -> None:
        """End its process."""

    def close(self) -> None:
        """Look no more."""


@contextmanager
def _unless_gone() -> Iterator[None]:
    """Do something, or nothing where an engine is gone."""
    try:
        yield
    except OSError as error:
        raise_error_of_handler(error)


class LocalAttendant:
    """The attendant on the engine's own machine.

    Raises:
        OSError: Its process is not there, or cannot be looked at.
    """

    def __init__(self, engine: Whereabouts) -> None:
        with ExitStack() as undo:
            self._slate = SlateReader(engine.pid, engine.slate, engine.token)
            undo.callback(self._slate.close)
            self._printed = os.open(engine.printed, os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, self._printed)
            self._process = os.pidfd_open(engine.pid)
            undo.pop_all()
        close_in_forked_child(self)

    def ended(self) -> bool:
        return self.wait(0.0)

    def look(self) -> bool:
        return self.wait(0.0)

    def wait(self, seconds: float) -> bool:
        if self._process < 0:
            return True
        poller = select.poll()  # one of its own, since several threads may wait at once
        poller.register(self._process, select.POLLIN)
        return bool(poller.poll(seconds * 1000))

    def interrupt(self, turn: Turn) -> None:
        with _unless_gone():  # or its slate is closed: then a deadline ends it
            if self._slate.runs(turn):
                self._send(signal.SIGINT)
            else:
                self._slate.withdraw(turn)

    def shown(self, turn: Turn, seen: int) -> tuple[list[bytes], Span]:
        with _unless_gone():  # the reply brings it as well
            if shown := self._slate.shown(turn, seen):
                reports, start = shown
                return reports, (start, max(start, os.fstat(self._printed).st_size))
        return _NOTHING

    def printed(self, span: Span) -> bytes:
        with _unless_gone():
            return read(self._printed, span)
        return b""

    def kill(self) -> None:
        with _unless_gone():
            self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self._process >= 0:
            signal.pidfd_send_signal(self._process, number)

    def close(self) -> None:
        self._slate.close()
        descriptors = self._process, self._printed
        self._process = self._printed = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)


class Watch:
    """An actor on a node: attends to the engines there, for one host."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attendants: dict[bytes, LocalAttendant] = {}

    def ask(self, key: bytes, engine: Whereabouts, method: str, *arguments: Any) -> Any:
        """Call a method of an attendant.

        Args:
            key: The attendant's: two clients of one engine have one each.
            engine: Where its engine runs.
            method: What to call.
            arguments: Its arguments.

        Raises:
            OSError: The engine is not there.
        """
        with self._lock:
            if key not in self._attendants:
                self._attendants[key] = LocalAttendant(engine)
            attendant = self._attendants[key]
        return getattr(attendant, method)(*arguments)

    def printed(self, key: bytes, engine: Whereabouts, span: Span) -> bytes:
        """Some of what an engine has printed, also when it is gone."""
        with open(engine.printed, "rb") as file:
            return read(file.fileno(), span)

    def leave(self, key: bytes, engine: Whereabouts) -> None:
        """End an attendant."""
        with self._lock:
            attendant = self._attendants.pop(key, None)
        if attendant is not None:
            attendant.close()


class RemoteAttendant:
    """Asks a watch on the engine's node. If that is gone, so is the node, and the engine."""

    def __init__(self, cluster: Cluster, engine: Whereabouts) -> None:
        self._cluster, self._engine = cluster, engine
        self._watch, self._key = cluster.on_node(engine.node, Watch), os.urandom(16)
        self._looking: Any = None
        self._over = False

    def begin(self, patience: float) -> None:
        """Wait until the watch is there, or not much longer: before, nothing can be interrupted."""
        ref = self._send("ask", "ended")
        if ref is not None and self._ready(ref, patience):
            self._over = self._get(ref, lambda: True)

    def ended(self) -> bool:
        return self._over

    def look(self) -> bool:
        if self._looking is None:
            self._looking = self._send("ask", "ended")
        if self._looking is not None and self._ready(self._looking, 0.0):
            looking, self._looking = self._looking, None
            self._over = self._over or self._get(looking, lambda: True)
        return self._over

    def wait(self, seconds: float) -> bool:
        return self._over or bool(self._ask("wait", lambda: True, seconds, patience=seconds))

    def interrupt(self, turn: Turn) -> None:
        self._ask("interrupt", lambda: None, turn)

    def shown(self, turn: Turn, seen: int) -> tuple[list[bytes], Span]:
        found: tuple[list[bytes], Span] = self._ask("shown", lambda: _NOTHING, turn, seen)
        return found

    def printed(self, span: Span) -> bytes:
        ref = self._send("printed", span)
        return bytes(self._get(ref, bytes)) if ref is not None and self._ready(ref) else b""

    def kill(self) -> None:
        self._ask("kill", lambda: None)

    def close(self) -> None:
        self._over = True
        self._send("leave")

    def _ask(
        self, method: str, otherwise: Callable[[], Any], *arguments: Any, patience: float = 0.0
    ) -> Any:
        ref = None if self._over else self._send("ask", method, *arguments)
        if ref is None or not self._ready(ref, _PATIENCE + patience):
            return otherwise()
        return self._get(ref, otherwise)

    def _send(self, what: str, *arguments: Any) -> Any:
        """Call the watch; None where the cluster is gone, in one of many ways."""
        try:
            self._cluster.check()
            return getattr(self._watch, what).remote(self._key, self._engine, *arguments)
        except Exception as error:
            raise_error_of_handler(error)
            return None

    def _ready(self, ref: Any, patience: float = _PATIENCE) -> bool:
        try:
            return bool(self._cluster.ray.wait([ref], timeout=patience)[0])
        except Exception as error:  # the cluster is gone
            raise_error_of_handler(error)
            return True

    def _get(self, ref: Any, otherwise: Callable[[], Any]) -> Any:
        try:
            return self._cluster.ray.get(ref)
        except Exception as error:  # the engine is gone, or its node, or the cluster
            raise_error_of_handler(error)
            return otherwise()
