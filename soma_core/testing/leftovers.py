"""What is left behind: processes by a mark in their environment, descriptors, memory files."""

from __future__ import annotations

import gc
import time
import uuid
from dataclasses import dataclass

import psutil

from soma_core.channel.deadline import Deadline

_VARIABLE = "SOMA_TESTING_MARK"
_PAUSE = 0.02


class ProcessMark:
    """Marks processes through their environment, which children inherit wherever they go.

    Attributes:
        environment: What to add to the environment of a process that is started.
    """

    def __init__(self) -> None:
        self.environment = {_VARIABLE: uuid.uuid4().hex}

    def processes(self) -> list[psutil.Process]:
        """The processes with this mark that run, whoever their parent is by now."""
        return [process for process in psutil.process_iter() if self._bears(process)]

    def _bears(self, process: psutil.Process) -> bool:
        wanted = self.environment[_VARIABLE]
        try:
            marked = process.environ().get(_VARIABLE) == wanted
            return bool(marked and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:  # it ended meanwhile, or is another user's
            return False

    def wait_until_gone(self, timeout: float, *, but: set[int] | None = None) -> set[int]:
        """Wait until no marked process runs.

        Args:
            timeout: Seconds.
            but: Processes that may stay.

        Returns:
            The ids of those that still run; empty if all is well.
        """
        deadline = Deadline.after(timeout)
        while left := {process.pid for process in self.processes()} - (but or set()):
            if deadline.over():
                return left
            time.sleep(_PAUSE)
        return set()

    def kill(self, *, but: set[int] | None = None) -> None:
        """Kill every marked process."""
        for process in self.processes():
            if process.pid not in (but or set()):
                process.kill()


@dataclass(frozen=True)
class OpenResources:
    """What a process holds of the kernel's.

    Attributes:
        descriptors: Open file descriptors.
        memory_files: Mapped memory files of soma.
    """

    descriptors: int
    memory_files: int

    @classmethod
    def of(cls, pid: int | None = None) -> OpenResources:
        """Of a process; None is this one, whose garbage is collected first."""
        if pid is None:
            gc.collect()
        process = psutil.Process(pid)
        maps = process.memory_maps(grouped=False)
        files = sum(1 for region in maps if "memfd:soma" in region.path)
        return cls(process.num_fds(), files)

    def exceeds(self, before: OpenResources) -> bool:
        """Whether there is more of anything than before."""
        return self.descriptors > before.descriptors or self.memory_files > before.memory_files

    def wait_until_released(self, timeout: float) -> OpenResources:
        """Wait until this process holds no more than this, and return what it holds."""
        deadline = Deadline.after(timeout)
        while (now := OpenResources.of()).exceeds(self) and not deadline.over():
            time.sleep(_PAUSE)
        return now
