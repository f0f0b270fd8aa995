"""What a process uses of its machine, asked of the operating system and not of the process."""

from __future__ import annotations


def process_usage(pid: int) -> tuple[float, int] | tuple[None, None]:
    """What a process uses of this machine.

    Returns:
        Seconds of processor time, and bytes of resident memory. None each if the process is gone,
        or if this one has no descriptor or memory left to look with.
    """
    try:
        import psutil

        if not hasattr(psutil, "Process"):  # a signal handler asks, in the midst of its import
            return None, None
        process = psutil.Process(pid)
        times, memory = process.cpu_times(), process.memory_info()
    except (OSError, ImportError, MemoryError):
        return None, None
    except psutil.Error:
        return None, None
    return times.user + times.system, memory.rss
