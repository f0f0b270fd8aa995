"""What a worker printed, on its way from the thread that reads it to the client."""

from __future__ import annotations

import asyncio
import threading

from soma_core.transport import OutputLine

_MOST = 1 << 20  # characters that wait for a client; then lines are dropped


class PrintedLines:
    """Lines that wait to be sent; they may be added from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._size = self._dropped = 0
        self._more = asyncio.Event()

    def add(self, line: OutputLine) -> None:
        """Take a line."""
        with self._lock:
            if self._size > _MOST:
                self._dropped += 1
                return
            self._lines.append(str(line))
            self._size += len(line) + 1
        self._loop.call_soon_threadsafe(self._more.set)

    async def wait(self) -> None:
        """Wait until there are some."""
        await self._more.wait()
        self._more.clear()

    def take(self) -> list[str]:
        """Those that wait, in order."""
        with self._lock:
            lines, self._lines = self._lines, []
            dropped, self._size, self._dropped = self._dropped, 0, 0
        if dropped:
            lines.append(f"({dropped} lines are missing here: sending them was held up)")
        return lines
