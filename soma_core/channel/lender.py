"""Lender: the regions that this end of a channel fills and the other end reads."""

from __future__ import annotations

import array
import os
import secrets
import socket
import struct
import threading
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np

from soma_core.channel.memory_file import ROUND, Mapping, create_memory_file
from soma_core.channel.region_table import (
    ANNOUNCEMENT,
    DROPPED,
    FIRST,
    FREE,
    LENT,
    RECALLS,
    SLOTS,
    START,
    TABLE_SIZE,
    TOKEN_SIZE,
)
from soma_core.wire.frames import EntryKind, TableEntry

_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)  # a host may have SIGPIPE at its default
_IDLE_COUNT = 64  # free regions that are kept for reuse
_IDLE_BYTES = 1 << 30  # and their bytes, while messages come and go
_WASTE = 4  # a free region may be so many times larger than what is put into it


@dataclass
class _Region:
    """A region of ours: the slot of its byte in the table, and the memory."""

    slot: int
    generation: int
    mapping: Mapping
    is_filled: bool = True

    @property
    def size(self) -> int:
        return self.mapping.size


class Lender:
    """The regions that this end fills and the other reads.

    Args:
        side: Where descriptors are sent.
        announcements: Receives the entries of regions that were closed, which the other end still
            maps.
        retained: Bytes of free regions that keep their memory when they rest.
        rest_after: Seconds without use after which they do.

    Attributes:
        retained: As given, or what the other end has asked for.
    """

    def __init__(
        self, side: socket.socket, announcements: list[TableEntry], retained: int, rest_after: float
    ) -> None:
        self._side = side
        self._rest_after = rest_after
        self._announcements = announcements
        self.retained = retained
        self._table: memoryview | None = None
        self._regions: list[_Region] = []
        self._free_slots = list(range(SLOTS - 1, -1, -1))
        self._generation = 0
        self._used = 0.0
        self._lock = threading.Lock()  # between whoever sends and whoever trims

    @property
    def offered(self) -> bool:
        return self._table is not None

    @property
    def recalls(self) -> memoryview | None:
        """The numbers by which this end takes messages back."""
        return None if self._table is None else self._table[RECALLS].cast("Q")

    def offer(self) -> TableEntry | None:
        """Make the table and send it; the entry that announces it, or None where that fails."""
        token = secrets.token_bytes(TOKEN_SIZE)
        try:
            table = self._share(0, 0, TABLE_SIZE, START.pack(token, self.retained))
        except OSError:
            return None
        self._table = table.memory
        return TableEntry(EntryKind.OFFER, 0, *struct.unpack("<QQ", token))

    def place(self, buffer: Any) -> TableEntry | None:
        """Copy a buffer into a free region; None if there is none to be had."""
        view = memoryview(buffer)
        size = view.nbytes
        with self._lock:
            region = self._find(size)
            if region is not None:
                region.is_filled = True
                _fill(region.mapping, view)
            else:
                region = self._make(view)
            self.touch()
            if region is None or self._table is None:
                return None
            self._table[FIRST + region.slot] = LENT
        return TableEntry(EntryKind.SHARED, region.slot, region.generation, size)

    def touch(self) -> None:
        """Note that messages come and go: nothing rests."""
        self._used = monotonic()

    @property
    def excess(self) -> int:
        """How many bytes more there are in regions than those that rest may keep."""
        return sum(region.size for region in self._regions if region.is_filled) - self.retained

    def trim(self) -> bool:
        """Empty free regions beyond those that may keep their memory, if they rest.

        Returns:
            Whether there is more, so that it is worth another try.
        """
        with self._lock:
            excess = self.excess
            if excess > 0 and monotonic() - self._used >= self._rest_after:
                for region in self._regions:
                    if excess > 0 and region.is_filled and self._is_free(region):
                        region.mapping.empty()
                        region.is_filled = False
                        excess -= region.size
        return excess > 0

    def take_back(self, entry: TableEntry) -> None:
        """Free a region that was lent in a frame that was not sent."""
        if self._table is not None:
            self._table[FIRST + entry.region] = FREE

    def _is_free(self, region: _Region) -> bool:
        return self._state(region) == FREE

    def _state(self, region: _Region) -> int:
        return LENT if self._table is None else self._table[FIRST + region.slot]

    def _find(self, size: int) -> _Region | None:
        """The smallest free region that fits, unless it would be mostly empty."""
        found: _Region | None = None
        most = max(ROUND, size * _WASTE) + 1
        for region in self._regions:
            if size <= region.size < most and self._is_free(region):
                found, most = region, region.size
        return found

    def _make(self, content: memoryview) -> _Region | None:
        """A new region with this content."""
        size = content.nbytes
        self._retire_idle(size)
        self._forget_dropped()
        if not self._free_slots:
            return None
        slot = self._free_slots[-1]
        rounded = -(-size // ROUND) * ROUND
        self._generation += 1
        try:
            mapping = self._share(slot, self._generation, rounded, content)
        except (OSError, ValueError):  # no memory, no descriptors, or the other end is behind
            return None
        self._free_slots.pop()
        region = _Region(slot, self._generation, mapping)
        self._regions.append(region)
        return region

    def _retire_idle(self, needed: int) -> None:
        """Close free regions, the oldest first, while more is idle than the caps allow."""
        idle = [region for region in self._regions if self._is_free(region)]
        excess = sum(region.size for region in idle) + needed - _IDLE_BYTES
        surplus = len(idle) - _IDLE_COUNT
        for region in idle:
            if excess <= 0 and surplus < 0:
                break
            excess -= region.size
            surplus -= 1
            region.mapping.empty()  # the other end still maps it
            self._regions.remove(region)
            self._free_slots.append(region.slot)
            self._announcements.append(
                TableEntry(EntryKind.RETIRE, region.slot, region.generation, 0)
            )

    def _forget_dropped(self) -> None:
        """Close the regions that the other end could not map."""
        dropped = [region for region in self._regions if self._state(region) == DROPPED]
        for region in dropped:
            self._regions.remove(region)
            self._free_slots.append(region.slot)

    def _share(self, slot: int, generation: int, size: int, content: Any) -> Mapping:
        """Make a memory file, map it, fill it, and send its descriptor.

        Raises:
            OSError: It cannot be made, or cannot be sent now.
        """
        fd = create_memory_file(size)
        try:
            mapping = Mapping(fd, size)
            _fill(mapping, content)
            announcement = ANNOUNCEMENT.pack(slot, generation, size)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            self._side.sendmsg([announcement], [rights], _NO_SIGNAL)
        finally:
            os.close(fd)
        return mapping

    def close(self) -> None:
        self._table = None
        self._regions.clear()


def _fill(mapping: Mapping, content: Any) -> None:
    source = np.frombuffer(content, np.uint8)
    np.copyto(np.asarray(mapping)[: len(source)], source)
