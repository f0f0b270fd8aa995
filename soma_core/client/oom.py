"""MemoryPressure: whether the kernel has killed processes because memory ran out."""

from __future__ import annotations

from pathlib import Path

_VMSTAT = Path("/proc/vmstat")


class MemoryPressure:
    """Counts the processes that the kernel's out-of-memory killer ends from now on."""

    def __init__(self) -> None:
        self._before = _kills()

    def hint(self) -> str:
        """What to add to the error of a process that SIGKILL ended; may be empty."""
        if self._before is None:
            return " (perhaps by the out-of-memory killer of the system)"
        kills = (_kills() or 0) - self._before
        if kills <= 0:
            return ""
        return (
            " (the kernel's out-of-memory killer has killed a process since this worker started, "
            "most likely this one; give it less data at a time, or the machine more memory)"
        )


def _kills() -> int | None:
    """How many processes the kernel has killed because memory ran out; None if unknown."""
    try:
        lines = _VMSTAT.read_text().splitlines()
    except OSError:
        return None
    counts = (line.removeprefix("oom_kill ") for line in lines if line.startswith("oom_kill "))
    return int(next(counts, "0"))
