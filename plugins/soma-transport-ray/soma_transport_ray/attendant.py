"""The attendant: looks at an engine from outside of it, on the engine's machine.

Where that is the host's machine, the host does it itself; elsewhere a small actor does, that is
started on the engine's node when it is first needed.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from soma_core.forks import close_in_forked_child
from soma_transport_ray.engine import Whereabouts
from soma_transport_ray.slate import SlateReader, Turn

__all__ = ["Attendant", "Present", "Remote"]

_TAIL_LINES = 50
_TAIL_BYTES = 50 * 2000
_OF_RAY = (":actor_name:", ":task_name:", ":job_id:")  # lines that Ray writes for itself
_PATIENCE = 1.0  # seconds for an answer from another machine


class Attendant(Protocol):
    """What can be asked about an engine; nothing of it raises."""

    def ended(self) -> bool:
        """Whether its process is known to have ended; costs next to nothing."""

    def look(self) -> bool:
        """Whether its process has ended; may learn it only after it was asked again."""

    def wait(self, seconds: float) -> bool:
        """Whether its process ends within so many seconds."""

    def interrupt(self, turn: Turn) -> None:
        """End a command that runs by SIGINT, and keep one that waits from being executed."""

    def progress(self, turn: Turn, seen: int) -> list[bytes]:
        """What a command that runs has reported, beyond what was seen."""

    def kill(self) -> None:
        """End its process."""

    def stderr_tail(self) -> str:
        """The last lines that it wrote to stderr."""

    def close(self) -> None:
        """Look no more."""


class Present:
    """The attendant on the engine's own machine.

    Args:
        engine: Where it runs.

    Raises:
        OSError: Its process is not there, or cannot be looked at.
    """

    def __init__(self, engine: Whereabouts) -> None:
        self._stderr = engine.stderr
        self._slate = SlateReader(engine.pid, engine.slate, engine.token)
        try:
            self._process = os.pidfd_open(engine.pid)
        except OSError:
            self._slate.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._process, select.POLLIN)
        close_in_forked_child(self)

    def ended(self) -> bool:
        return self.wait(0.0)

    def look(self) -> bool:
        return self.wait(0.0)

    def wait(self, seconds: float) -> bool:
        return self._process < 0 or bool(self._poll.poll(seconds * 1000))

    def interrupt(self, turn: Turn) -> None:
        with suppress(OSError):  # it is gone, or has closed its slate: then a deadline ends it
            if self._slate.runs(turn):
                self._send(signal.SIGINT)
            else:
                self._slate.withdraw(turn)

    def progress(self, turn: Turn, seen: int) -> list[bytes]:
        with suppress(OSError):  # what it reported comes with the reply as well
            return self._slate.progress(turn, seen)
        return []

    def kill(self) -> None:
        with suppress(OSError):  # it is gone
            self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self._process >= 0:
            signal.pidfd_send_signal(self._process, number)

    def stderr_tail(self) -> str:
        return _tail(self._stderr)

    def close(self) -> None:
        self._slate.close()
        process, self._process = self._process, -1
        if process >= 0:
            os.close(process)


def _tail(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join([line for line in lines if not line.startswith(_OF_RAY)][-_TAIL_LINES:])


class Remote:
    """Asks an attendant on another machine.

    Args:
        ray: The module.
        engine: Where it runs.
    """

    def __init__(self, ray: Any, engine: Whereabouts) -> None:
        self._ray, self._engine = ray, engine
        self._actor: Any = None
        self._looking: Any = None
        self._over = False

    def ended(self) -> bool:
        return self._over

    def look(self) -> bool:
        if self._looking is None:
            self._looking = self._call("ended")
        if self._looking is not None and self._ready(self._looking, 0.0):
            looking, self._looking = self._looking, None
            self._over = self._over or self._get(looking, lambda: True)
        return self._over

    def wait(self, seconds: float) -> bool:
        return self._over or bool(self._ask("wait", lambda: True, seconds, patience=seconds))

    def interrupt(self, turn: Turn) -> None:
        self._ask("interrupt", lambda: None, turn)

    def progress(self, turn: Turn, seen: int) -> list[bytes]:
        found: list[bytes] = self._ask("progress", list, turn, seen)
        return found

    def kill(self) -> None:
        self._ask("kill", lambda: None)

    def stderr_tail(self) -> str:
        """By a task, since an attendant that comes when the engine is dead finds nobody."""
        try:
            ref = self._ray.remote(_tail).options(**self._there()).remote(self._engine.stderr)
        except Exception:  # the cluster is gone
            return ""
        return str(self._get(ref, str)) if self._ready(ref, 2 * _PATIENCE) else ""

    def close(self) -> None:
        """End the actor there."""
        self._over = True
        actor, self._actor, self._looking = self._actor, None, None
        if actor is not None:
            with suppress(Exception):  # the cluster may be gone
                self._ray.kill(actor)

    def _ask(
        self, method: str, otherwise: Callable[[], Any], *arguments: Any, patience: float = 0.0
    ) -> Any:
        ref = self._call(method, *arguments)
        if ref is None or not self._ready(ref, _PATIENCE + patience):
            return otherwise()
        return self._get(ref, otherwise)

    def _call(self, method: str, *arguments: Any) -> Any:
        """Ask it something; None where nobody can be asked."""
        if self._over:
            return None
        try:
            if self._actor is None:
                self._actor = self._hire()
            return getattr(self._actor, method).remote(*arguments)
        except Exception:  # the cluster is gone, in one of many ways
            return None

    def _hire(self) -> Any:
        return self._ray.remote(Present).options(**self._there()).remote(self._engine)

    def _there(self) -> dict[str, Any]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(self._engine.node, soft=False)
        return {"num_cpus": 0, "scheduling_strategy": there}

    def _ready(self, ref: Any, patience: float) -> bool:
        try:
            return bool(self._ray.wait([ref], timeout=patience)[0])
        except Exception:  # the cluster is gone
            return True

    def _get(self, ref: Any, otherwise: Callable[[], Any]) -> Any:
        try:
            return self._ray.get(ref)
        except Exception:  # its node is gone, and the engine with it
            return otherwise()
