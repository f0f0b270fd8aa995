"""How the daemon gets worker processes: forked from a zygote where there is one, else started."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from soma_core.errors import StartFailed
from soma_core.transport import WorkerProcess, thread_limits
from soma_transport_socket.daemon.forkserver import Forkserver
from soma_transport_socket.daemon.loop import Loop
from soma_transport_socket.messages import Attached, WorkerSpec

_log = logging.getLogger("soma.daemon")
_PR_SET_CHILD_SUBREAPER = 36


class Launched(NamedTuple):
    """A worker process, and why it was not forked where it should have been."""

    process: WorkerProcess
    warning: str | None = None


class Launcher:
    """Launches workers."""

    def __init__(self, loop: Loop, preload: Sequence[str]) -> None:
        self._loop = loop
        self._preload = preload
        self._gave_up = False
        self._forkserver: Forkserver | None = None

    def start(
        self, when_ready: Callable[[], None], when_failed: Callable[[StartFailed], None]
    ) -> None:
        """Get ready to launch workers.

        Args:
            when_ready: Called when it is; with a zygote, once that has imported its modules.
            when_failed: Called if a module cannot be imported.

        Raises:
            StartFailed: There can be no zygote here.
        """
        if not self._preload:
            when_ready()
            return
        _adopt_orphans()
        self._start_forkserver(when_ready, when_failed)

    def _start_forkserver(
        self, when_ready: Callable[[], None], when_failed: Callable[[StartFailed], None]
    ) -> None:
        forkserver = self._forkserver = Forkserver(self._preload)

        def attend() -> None:
            was_ready = forkserver.ready
            try:
                forkserver.attend()
            except StartFailed as error:
                self._stop(forkserver)
                if was_ready:
                    _log.warning("--preload: %s; another one is started", error)
                    self._restart_forkserver()
                else:
                    when_failed(error)
            else:
                if forkserver.ready and not was_ready:
                    when_ready()

        self._loop.on_readable(forkserver.events, attend)

    def _restart_forkserver(self) -> None:
        def give_up(error: StartFailed) -> None:
            self._gave_up = True
            _log.warning("--preload: %s; workers are started afresh from now on", error)

        try:
            self._start_forkserver(lambda: None, give_up)
        except (OSError, StartFailed) as error:
            _log.warning("--preload: %s; it is tried again for the next client", error)

    def launch(self, spec: WorkerSpec, attached: Mapping[Attached, int]) -> Launched:
        """Fork a worker from the zygote if that can be, else start one afresh.

        Raises:
            StartFailed: It cannot be started.
        """
        forkserver = self._forkserver
        if forkserver is None and self._preload and not self._gave_up:
            self._restart_forkserver()
        if forkserver is None or not forkserver.ready:
            return Launched(_start_afresh(spec, attached))
        process = warning = None
        try:
            process = forkserver.take(spec, attached)
        except StartFailed as error:
            warning = f"--preload: {error}; this worker is started afresh"
            _log.warning("%s", warning)
        if not forkserver.ready:
            self._stop(forkserver)
            self._restart_forkserver()
        return Launched(process or _start_afresh(spec, attached), warning)

    def look_after(self, workers: set[int]) -> None:
        """Replace a warm worker that died, and reap what ended workers left behind.

        Args:
            workers: The processes of the workers that were launched and have not been reaped.
        """
        if self._forkserver is not None:
            self._forkserver.drop_dead_worker()
            workers = workers | self._forkserver.pids
        if self._preload or os.getpid() == 1:  # the first process adopts all orphans
            _reap_orphans(workers)

    def stop(self) -> None:
        """End the zygote."""
        if self._forkserver is not None:
            self._stop(self._forkserver)

    def _stop(self, forkserver: Forkserver) -> None:
        self._loop.remove(forkserver.events)
        forkserver.stop()
        self._forkserver = None


def _start_afresh(spec: WorkerSpec, attached: Mapping[Attached, int]) -> WorkerProcess:
    text = spec.model_copy(update={"attached": tuple(attached)}).to_json().decode()
    descriptors = list(attached.values())
    command = [sys.executable, "-P", "-m", "soma_transport_socket.worker", text]
    return WorkerProcess(
        [*command, *map(str, descriptors)],
        pass_fds=descriptors,
        env=thread_limits(spec.threads),
    )


def _adopt_orphans() -> None:
    """Become the parent of descendants whose parent ended, as the zygote's workers are.

    Raises:
        StartFailed: The kernel cannot do that.
    """
    if not sys.platform.startswith("linux"):
        raise StartFailed("--preload needs Linux: only there can forked workers be adopted")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise StartFailed(f"--preload: the kernel refuses: {os.strerror(ctypes.get_errno())}")


def _reap_orphans(workers: set[int]) -> None:
    """Reap the adopted children that ended and are no workers: what workers left behind."""
    with suppress(ChildProcessError):  # there are no children at all
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if ended is None or ended.si_pid in workers:
                return
            os.waitpid(ended.si_pid, 0)
