"""A filter that holds one of everything that a worker may leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["Holds"]


class Holds:
    """Starts processes, maps shared memory and opens files, and then does as it is told.

    What has a name in the file system is removed by the process that made it, or by one that
    :mod:`multiprocessing` has for that: ``names`` says what a kind of end must not leave behind.
    """

    def forward(self, x: Any, state: Any) -> Any:
        """Hold everything, tell so in the file ``note``, and then ``then``."""
        import os
        import tempfile

        self._start_processes()
        if x["pool"]:
            self._start_pool()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - as a filter would
        if x["names"] != "none":
            self._memory = self._shared_memory(x["note"])
        if x["names"] == "all":
            self._directory = tempfile.TemporaryDirectory()
            self._named = tempfile.NamedTemporaryFile("w")  # noqa: SIM115 - the same
            self._named.write("what was not flushed")
        Path(x["note"]).write_text(str(os.getpid()))
        return getattr(self, f"_{x['then']}")()

    def fit(self, x: Any, y: Any = None) -> Any:
        """There is nothing to learn."""
        return {}

    def _start_processes(self) -> None:
        """A child in the worker's session, one in its own, and an orphan of a double fork."""
        import os
        import subprocess
        import time

        self._children = [
            subprocess.Popen(["sleep", "600"], start_new_session=apart) for apart in (False, True)
        ]
        if (child := os.fork()) == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(600)
            os._exit(0)
        os.waitpid(child, 0)

    def _start_pool(self) -> None:
        import multiprocessing

        context = multiprocessing.get_context("fork")
        self._pool = context.Pool(2)
        self._queue = context.Queue()
        self._queue.put(self._pool.map(abs, [-1, -2]))

    def _shared_memory(self, note: str) -> Any:
        """Under a name of which the site knows that it is no other program's."""
        from multiprocessing import shared_memory

        return shared_memory.SharedMemory(Path(note).name, create=True, size=1000)

    def _return(self) -> str:
        return "held"

    def _exit(self) -> None:
        import os

        os._exit(3)

    def _sleep(self) -> None:
        import time

        time.sleep(600)

    def _sleep_deaf(self) -> None:
        import signal

        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        while True:
            self._sleep()
