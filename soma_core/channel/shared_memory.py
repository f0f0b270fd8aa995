"""Shared memory between the two ends of a channel on one machine: large buffers without a pipe.

Each end owns the regions that it fills, and lends them. A region is an anonymous memory file,
sized once and sealed, whose descriptor travels once over a side socket. The receiver lays a
writable array over it; when the last array over it is gone, it sets the region's byte in a small
shared table, and the owner sees that when it next looks for a free one. There is no message, no
lock, and no name: nothing can be left behind.

Whether the side socket leads to the same machine at all is proved first: an end *offers* its
table by a frame entry that repeats a token written into the table; who finds the token in what
the side socket brought has the proof, and offers its own table in return, which the first end
*accepts*. Without proof everything goes inline, with the same meaning.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import secrets
import select
import socket
import struct
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from soma_core.channel.forks import close_in_forked_child, forked_readers
from soma_core.errors import ErrorCode, ProtocolError
from soma_core.wire.frames import Entry, EntryKind, FrameError

__all__ = ["THRESHOLD", "SharedMemory"]

THRESHOLD = 48 * 1024
"""Buffers of at least so many bytes go through shared memory; below, copying inline is faster."""

DEFAULT_LARGEST = 1 << 40
_IDLE_BYTES = 1 << 30  # so much of free regions is kept for reuse
_IDLE_COUNT = 16  # and so many of them, since each costs a descriptor
_SLOTS = 4096
_TOKEN_SIZE = 16
_TABLE_SIZE = _TOKEN_SIZE + _SLOTS
_PAGE = mmap.PAGESIZE
_ROUND = 1 << 16
_WASTE = 4  # a free region may be so many times larger than what is put into it
_ANNOUNCEMENT = struct.Struct("<IQQ")
_FIRST_FD_WAIT = 5.0  # seconds for a descriptor that was sent before the frame that names it
_SEALS = getattr(fcntl, "F_SEAL_SHRINK", 0) | getattr(fcntl, "F_SEAL_GROW", 0)
_POPULATE = getattr(mmap, "MAP_POPULATE", 0)
_FREE, _LENT = 0, 1


class SharedMemory:
    """One end's half of shared memory, over its end of a side socket.

    Args:
        side: A connected Unix socket beside the channel; owned by this object.
        initiate: Whether this end makes the first offer: the host's does.
        largest: The largest region to accept, in bytes.

    Attributes:
        announcements: The entries that the next frame must carry.
    """

    def __init__(
        self, side: socket.socket, *, initiate: bool, largest: int = DEFAULT_LARGEST
    ) -> None:
        side.setblocking(False)
        close_in_forked_child(side)
        self._side = side
        self.announcements: list[Entry] = []
        self._lent = _Lender(side, self.announcements)
        self._borrowed = _Borrower(side, largest)
        self._usable = False
        if initiate:
            self._make_offer()

    def take_back(self, entries: Iterable[Entry]) -> None:
        """Note that a frame with these entries was not sent after all."""
        for entry in entries:
            if entry.kind == EntryKind.SHARED:
                self._lent.take_back(entry)
            elif entry.kind != EntryKind.INLINE:
                self.announcements.append(entry)

    def announce(self) -> list[Entry]:
        """Take the entries that the next frame must carry."""
        entries = self.announcements.copy()
        self.announcements.clear()
        return entries

    def lend(self, buffer: Any) -> Entry | None:
        """Copy a buffer into a region; None if it must go inline."""
        if not self._usable:
            return None
        return self._lent.place(buffer)

    def take(self, entry: Entry) -> memoryview | None:
        """Act on an entry that came: the bytes that it lends, or None if it is no buffer.

        Raises:
            ProtocolError: ``malformed``: what it names does not exist or is not safe to read.
        """
        if entry.kind == EntryKind.SHARED:
            return self._borrowed.read(entry)
        if entry.kind == EntryKind.OFFER:
            self._consider(entry)
        elif entry.kind == EntryKind.ACCEPT:
            self._usable = True
        elif entry.kind == EntryKind.RETIRE:
            self._borrowed.forget(entry)
        return None

    def close(self) -> None:
        """Lend nothing more; what the other end still reads stays readable."""
        self._usable = False
        self._side.close()
        self._lent.close()
        self._borrowed.close()

    def _make_offer(self) -> None:
        offer = self._lent.offer()
        if offer is not None:
            self.announcements.append(offer)

    def _consider(self, offer: Entry) -> None:
        """Look for the proof of an offer; with it, offer in return, or accept."""
        if not self._borrowed.open_table(offer):
            return
        if self._lent.offered:
            self._usable = True
            self.announcements.append(Entry(EntryKind.ACCEPT, 0, 0, 0))
        else:
            self._make_offer()


@dataclass
class _Region:
    """A region of ours: the slot of its byte in the table, and the memory."""

    slot: int
    generation: int
    memory: mmap.mmap
    size: int


class _Lender:
    """The regions that this end fills and the other reads.

    Args:
        side: Where descriptors are sent.
        announcements: Receives the entries of regions that were closed, which the other end still
            maps.
    """

    def __init__(self, side: socket.socket, announcements: list[Entry]) -> None:
        self._side = side
        self._announcements = announcements
        self._table: mmap.mmap | None = None
        self._regions: list[_Region] = []
        self._free_slots = list(range(_SLOTS - 1, -1, -1))
        self._generation = 0

    @property
    def offered(self) -> bool:
        return self._table is not None

    def offer(self) -> Entry | None:
        """Make the table and send it; the entry that announces it, or None where that fails."""
        token = secrets.token_bytes(_TOKEN_SIZE)
        try:
            table = self._share(0, 0, _TABLE_SIZE)
        except OSError:
            return None
        table[:_TOKEN_SIZE] = token
        self._table = table
        return Entry(EntryKind.OFFER, 0, *struct.unpack("<QQ", token))

    def place(self, buffer: Any) -> Entry | None:
        """Copy a buffer into a free region; None if there is none to be had."""
        view = memoryview(buffer)
        size = view.nbytes
        region = self._find(size) or self._make(size)
        if region is None or self._table is None:
            return None
        np.copyto(np.frombuffer(region.memory, np.uint8, size), np.frombuffer(view, np.uint8))
        self._table[_TOKEN_SIZE + region.slot] = _LENT
        return Entry(EntryKind.SHARED, region.slot, region.generation, size)

    def take_back(self, entry: Entry) -> None:
        """Free a region that was lent in a frame that was not sent."""
        if self._table is not None:
            self._table[_TOKEN_SIZE + entry.region] = _FREE

    def _is_free(self, region: _Region) -> bool:
        return self._table is not None and self._table[_TOKEN_SIZE + region.slot] == _FREE

    def _find(self, size: int) -> _Region | None:
        """The smallest free region that fits, unless it would be mostly empty."""
        found: _Region | None = None
        most = max(_ROUND, size * _WASTE) + 1
        for region in self._regions:
            if size <= region.size < most and self._is_free(region):
                found, most = region, region.size
        return found

    def _make(self, size: int) -> _Region | None:
        self._retire_idle(size)
        if not self._free_slots:
            return None
        slot = self._free_slots[-1]
        rounded = -(-size // _ROUND) * _ROUND
        self._generation += 1
        try:
            memory = self._share(slot, self._generation, rounded)
        except (OSError, ValueError):  # no memory, no descriptors, or the other end is behind
            return None
        self._free_slots.pop()
        region = _Region(slot, self._generation, memory, rounded)
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
            self._regions.remove(region)
            self._free_slots.append(region.slot)
            self._announcements.append(Entry(EntryKind.RETIRE, region.slot, region.generation, 0))

    def _share(self, slot: int, generation: int, size: int) -> mmap.mmap:
        """Make a memory file, map it, and send its descriptor.

        Raises:
            OSError: It cannot be made, or cannot be sent now.
        """
        fd = _create(size)
        try:
            memory = mmap.mmap(fd, size)
            announcement = _ANNOUNCEMENT.pack(slot, generation, size)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            self._side.sendmsg([announcement], [rights])
        finally:
            os.close(fd)
        return memory

    def close(self) -> None:
        self._table = None
        self._regions.clear()


class _Borrower:
    """The regions of the other end that this end reads."""

    def __init__(self, side: socket.socket, largest: int) -> None:
        self._side = side
        self._largest = largest
        self._table: mmap.mmap | None = None
        self._mapped: dict[int, tuple[int, mmap.mmap]] = {}
        self._returns = _Returns()

    def open_table(self, offer: Entry) -> bool:
        """Whether the side socket brought the table whose token the offer repeats."""
        try:
            _, _, table = self._receive(0.0)
        except (ProtocolError, OSError, ValueError):
            return False
        token = struct.pack("<QQ", offer.generation, offer.size)
        if len(table) != _TABLE_SIZE or table[:_TOKEN_SIZE] != token:
            return False
        self._table = table
        return True

    def read(self, entry: Entry) -> memoryview:
        """The bytes of an entry, as a writable view that gives the region back when it dies."""
        table = self._table
        if table is None or entry.region >= _SLOTS:
            raise _malformed("a frame names shared memory that was not agreed on")
        memory = self._memory(entry)
        if entry.size > len(memory):
            raise _malformed(
                f"a frame lends {entry.size:,} bytes of a region that has {len(memory):,}"
            )
        self._returns.retry()
        # Over the memory itself: numpy would pass over a lease that is a view of a plain array
        # when it looks for the base of a further one, and the lease would die too soon.
        lease = _Lease((entry.size,), np.uint8, memory)
        lease.give_back = _GiveBack(self._returns, table, _TOKEN_SIZE + entry.region)
        return lease.data

    def _memory(self, entry: Entry) -> mmap.mmap:
        while (found := self._mapped.get(entry.region)) is None or found[0] != entry.generation:
            try:
                slot, generation, memory = self._receive(_FIRST_FD_WAIT)
            except (OSError, ValueError) as error:
                raise _malformed(f"a region of shared memory did not arrive: {error}") from None
            self._mapped[slot] = (generation, memory)
        return found[1]

    def _receive(self, timeout: float) -> tuple[int, int, mmap.mmap]:
        """The next region that the side socket brings: its slot, its generation, its memory.

        Raises:
            OSError: None came in time.
            ProtocolError: ``malformed``: what came is not a sealed memory file.
        """
        if timeout:
            poller = select.poll()
            poller.register(self._side, select.POLLIN)
            poller.poll(timeout * 1000)
        space = socket.CMSG_SPACE(array.array("i").itemsize)
        data, ancillary, _, _ = self._side.recvmsg(_ANNOUNCEMENT.size, space)
        fds = _descriptors(ancillary)
        try:
            if len(fds) != 1 or len(data) != _ANNOUNCEMENT.size:
                raise _malformed("the side socket brought something that is not a region")
            slot, generation, size = _ANNOUNCEMENT.unpack(data)
            if slot >= _SLOTS:
                raise _malformed(f"a region of number {slot:,} came; there are {_SLOTS:,}")
            if size > self._largest + _ROUND:
                raise FrameError(
                    ErrorCode.TOO_LARGE,
                    f"a region of {size:,} bytes came; the limit is {self._largest:,}",
                )
            _check_sealed(fds[0], size)
            flags = mmap.MAP_SHARED | _POPULATE
            return slot, generation, mmap.mmap(fds[0], size, flags=flags)
        finally:
            for fd in fds:
                os.close(fd)

    def forget(self, entry: Entry) -> None:
        """Drop the mapping of a region that its owner closed; arrays over it keep it alive.

        Its slot may have been given to a newer region before this was said.
        """
        if self._mapped.get(entry.region, (None,))[0] == entry.generation:
            del self._mapped[entry.region]

    def close(self) -> None:
        """Drop every mapping; arrays over them keep those that they need."""
        self._table = None
        self._mapped.clear()


class _Returns:
    """Regions whose last array here is gone, but which a forked child may still read."""

    def __init__(self) -> None:
        self._waiting: list[_GiveBack] = []

    def put_off(self, give_back: _GiveBack) -> None:
        self._waiting.append(give_back)

    def retry(self) -> None:
        """Give those back whose readers are all gone by now."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for give_back in waiting:
                give_back()


class _GiveBack:
    """Tells the owner that its region is free, once no process forked from this one reads it."""

    __slots__ = ("_index", "_mark", "_process", "_returns", "_table")

    def __init__(self, returns: _Returns, table: mmap.mmap, index: int) -> None:
        self._returns, self._table, self._index = returns, table, index
        self._process = os.getpid()
        self._mark = forked_readers.mark()

    def __call__(self) -> None:
        if os.getpid() != self._process:
            return  # a forked copy: the lease is the parent's
        if forked_readers.gone_since(self._mark):
            self._table[self._index] = _FREE
        else:
            self._returns.put_off(self)


class _Lease(np.ndarray[Any, Any]):
    """The base of every array over a region: when it dies, no array over the region is left."""

    give_back: _GiveBack | None = None  # numpy's own temporary views have no lease to give back

    def __del__(self) -> None:
        if self.give_back is not None:
            self.give_back()


def _create(size: int) -> int:
    """An anonymous memory file of a fixed size.

    Raises:
        OSError: There is no memory, or no descriptor.
    """
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            return os.dup(file.fileno())
    fd = os.memfd_create("soma", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_sealed(fd: int, size: int) -> None:
    """Make sure that reading a file can never end in SIGBUS: it has its size, and keeps it."""
    if os.fstat(fd).st_size != size or size <= 0:
        raise _malformed("a region of shared memory does not have the size that was announced")
    if not sys.platform.startswith("linux"):
        return
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise _malformed("a descriptor came that is not a memory file") from None
    if seals & _SEALS != _SEALS:
        raise _malformed("a memory file came that is not sealed against shrinking and growing")


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _malformed(message: str) -> FrameError:
    return FrameError(ErrorCode.MALFORMED, message)
