"""The threads that keep the zygote from forking, and what started each of them."""

import os

_TASKS = "/proc/self/task"
# Named by the libraries that stop them before a fork and start them anew after it: jemalloc, which
# pyarrow and polars bring.
_SAFE = frozenset({"jemalloc_bg_thd"})


class OtherThreads:
    """All threads of this process but its main thread and those that are safe across a fork."""

    def __init__(self) -> None:
        self._started_by: dict[str, str] = {}

    def note(self, cause: str) -> None:
        """Whatever is new was started by this cause."""
        for thread in _others():
            self._started_by.setdefault(thread, cause)

    def describe(self) -> str | None:
        """What runs now, and since when; None if a fork is safe."""
        others = _others()
        if not others:
            return None
        named = [
            f"{name!r} since {self._started_by.get(thread, 'the daemon came up')}"
            for thread, name in sorted(others.items())
        ]
        return f"other threads run in the zygote ({', '.join(named)}), and a fork copies only one"


def _others() -> dict[str, str]:
    """The names of the threads by their numbers."""
    named = {}
    for thread in os.listdir(_TASKS):
        try:
            with open(f"{_TASKS}/{thread}/comm", encoding="utf-8", errors="replace") as file:
                named[thread] = file.read().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
    named.pop(str(os.getpid()), None)
    return {thread: name for thread, name in named.items() if name not in _SAFE}
