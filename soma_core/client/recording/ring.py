"""Ring: the last exchanges, kept in memory until something goes wrong."""

from __future__ import annotations

from typing import Any

from soma_core.client.recording.entries import Direction, Entry, LeftOut, node_ids, with_buffers

_Key = tuple[str, str]


class _Exchange:
    """A command with what came back."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.size = 0

    def add(self, entry: Entry) -> int:
        kept = [one for one in entry.message.buffers if not isinstance(one, LeftOut)]
        size = len(entry.message.header) + sum(map(len, kept))
        self.entries.append(entry)
        self.size += size
        return size


_GIVE_STATES = ("FIT", "SET_STATE", "COMPOSITE_FIT", "BATCHED_FIT")


class Ring:
    """Forgets the oldest exchange first, but last those that the others build on.

    These are, of each node, the newest LOAD and the newest command that gave it a whole state; not
    those that go on from one, as PARTIAL_FIT and APPLY_GRADIENTS do.

    Args:
        last: How many exchanges to keep beside those.
        limit: The most bytes to keep.
    """

    def __init__(self, last: int, limit: int) -> None:
        self._last = last
        self._limit = limit
        self._size = 0
        self._exchanges: dict[int, _Exchange] = {}
        self._foundations: dict[_Key, int] = {}

    def add(self, entry: Entry, fields: dict[str, Any]) -> None:
        """Keep a copy of an entry; ``fields`` are those of its message."""
        exchange = self._exchanges.setdefault(entry.command, _Exchange())
        self._size += exchange.add(self._copied(entry))
        if entry.direction is Direction.COMMAND:
            self._build_on(entry.n, fields)
        self._forget(entry.command)

    def drain(self) -> list[Entry]:
        """Everything that is kept, in order; it is kept no longer."""
        exchanges = list(self._exchanges.values())
        self._exchanges, self._foundations, self._size = {}, {}, 0
        return [entry for exchange in exchanges for entry in exchange.entries]

    def _copied(self, entry: Entry) -> Entry:
        room = self._limit
        buffers: list[Any] = []
        for buffer in entry.message.buffers:
            size = memoryview(buffer).nbytes
            buffers.append(memoryview(buffer).tobytes() if size <= room else LeftOut.of(buffer))
            room -= size if size <= room else 0
        return with_buffers(entry, buffers)

    def _build_on(self, n: int, fields: dict[str, Any]) -> None:
        cmd = fields.get("cmd")
        if cmd == "LOAD":
            for node_id in node_ids(fields):
                self._foundations.pop(("state", node_id), None)
                self._foundations["node", node_id] = n
        elif cmd == "UNLOAD":
            for node_id in node_ids(fields):
                self._foundations.pop(("state", node_id), None)
                self._foundations.pop(("node", node_id), None)
        elif cmd in _GIVE_STATES and fields.get("step", True):
            for node_id in node_ids(fields):
                self._foundations["state", node_id] = n

    def _forget(self, current: int) -> None:
        if len(self._exchanges) <= self._last and self._size <= self._limit:
            return
        kept = set(self._foundations.values()) | {current}
        others = [n for n in self._exchanges if n not in kept]
        while others and (len(others) >= self._last or self._size > self._limit):
            self._drop(others.pop(0))
        foundations = [n for n in self._exchanges if n != current]
        while foundations and self._size > self._limit:
            self._drop(foundations.pop(0))

    def _drop(self, n: int) -> None:
        self._size -= self._exchanges.pop(n).size
