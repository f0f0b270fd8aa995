"""Borrower: the regions of the other end of a channel that this end reads."""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np

from soma_core.channel.forks import close_in_forked_child, forked_readers
from soma_core.channel.memory_file import (
    ROUND,
    Mapping,
    check_memory_file,
    copy_memory_file,
    malformed,
)
from soma_core.channel.region_table import (
    ANNOUNCEMENT,
    DROPPED,
    FIRST,
    FREE,
    RECALLS,
    SLOTS,
    START,
    TABLE_SIZE,
)
from soma_core.errors import ErrorCode, ProtocolError
from soma_core.wire.frames import FrameError, TableEntry

_FIRST_FD_WAIT = 1.0  # seconds for descriptors that were sent before the frame that names them


class Borrower:
    """The regions of the other end that this end reads.

    Args:
        side: Where descriptors come from.
        largest: The largest region to accept, in bytes.

    Attributes:
        unread: Of regions over which the last array has died since :meth:`give_back`.
    """

    def __init__(self, side: socket.socket, largest: int) -> None:
        self._side = side
        self._largest = largest
        self._table: memoryview | None = None
        self._mapped: dict[int, _Mapped] = {}
        self._read: dict[int, _Watch] = {}
        self._process = os.getpid()
        self.unread: deque[_Watch] = deque()
        self._spare = _SpareDescriptor()

    def open_table(self, offer: TableEntry) -> int | None:
        """Look for the table whose token the offer repeats in what the side socket brought.

        Returns:
            The bytes that resting regions of its owner keep; None if it is not there.
        """
        try:
            _, found = self._receive(monotonic())
        except (ProtocolError, OSError, ValueError):
            return None
        table = found.memory
        if found.mapping is None or len(table) != TABLE_SIZE:
            return None
        token, retained = START.unpack_from(table)
        if token != struct.pack("<QQ", offer.generation, offer.size):
            return None
        self._table = table
        return int(retained)

    @property
    def recalls(self) -> memoryview | None:
        """The numbers by which the other end takes messages back."""
        return None if self._table is None else self._table[RECALLS].cast("Q")

    def read(self, entry: TableEntry) -> memoryview:
        """The bytes of an entry, as a writable view that gives the region back when it dies."""
        table = self._table
        if table is None or entry.region >= SLOTS:
            raise malformed("a frame names shared memory that was not agreed on")
        found = self._find(entry)
        if entry.size > len(found.memory):
            raise malformed(
                f"a frame lends {entry.size:,} bytes of a region that has {len(found.memory):,}"
            )
        if found.mapping is None:
            del self._mapped[entry.region]
            return found.memory[: entry.size]
        self.give_back()
        if entry.region in self._read:
            raise malformed("a frame lends a region that is read already")
        # Over the memory itself: numpy would pass over a lease that is a view of a plain array
        # when it looks for the base of a further one, and the lease would die too soon.
        lease = _Lease((entry.size,), np.uint8, found.memory)
        watch = self._read[entry.region] = _Watch(lease, self.unread.append)
        watch.slot, watch.mark = entry.region, forked_readers.mark()
        return lease.data

    @property
    def reads(self) -> bool:
        """Whether arrays are left here that are over regions of the other end."""
        return bool(self._read)

    def give_back(self) -> None:
        """Tell the owner of the regions over which no array is left that they are free.

        Called before something is sent, and now and then. What a forked child may still read
        waits until that is gone.
        """
        if os.getpid() != self._process:
            return  # a forked copy: they are the parent's to give back
        for _ in range(len(self.unread)):
            try:
                watch = self.unread.popleft()
            except IndexError:  # another thread was faster
                return
            if not forked_readers.gone_since(watch.mark):
                self.unread.append(watch)
            elif self._table is not None:
                del self._read[watch.slot]
                self._table[FIRST + watch.slot] = FREE

    def _find(self, entry: TableEntry) -> _Mapped:
        """The region that an entry names; those before it are taken from the side socket too."""
        deadline = monotonic() + _FIRST_FD_WAIT
        while (found := self._mapped.get(entry.region)) is None or (
            found.generation != entry.generation
        ):
            try:
                slot, arrived = self._receive(deadline)
            except (OSError, ValueError) as error:
                raise malformed(f"a region of shared memory did not arrive: {error}") from None
            if arrived.mapping is None:
                self._drop(slot)
            self._mapped[slot] = arrived
        return found

    def _drop(self, slot: int) -> None:
        """Tell the owner of a region that it is not here, so that it makes another one."""
        if self._table is not None:
            self._table[FIRST + slot] = DROPPED

    def _receive(self, deadline: float) -> tuple[int, _Mapped]:
        """The next region that the side socket brings, and its slot.

        Raises:
            OSError: None came in time.
            ProtocolError: ``malformed``: what came is not a sealed memory file.
        """
        poller = select.poll()
        poller.register(self._side, select.POLLIN)
        poller.poll(max(0.0, deadline - monotonic()) * 1000)
        space = socket.CMSG_SPACE(array.array("i").itemsize)
        with self._spare.lent():
            data, ancillary, _, _ = self._side.recvmsg(ANNOUNCEMENT.size, space)
            fds = _descriptors(ancillary)
            try:
                return self._accept(data, fds)
            finally:
                for fd in fds:
                    os.close(fd)

    def _accept(self, data: bytes, fds: list[int]) -> tuple[int, _Mapped]:
        if len(fds) > 1 or len(data) != ANNOUNCEMENT.size:
            raise malformed("the side socket brought something that is not a region")
        slot, generation, size = ANNOUNCEMENT.unpack(data)
        if slot >= SLOTS:
            raise malformed(f"a region of number {slot:,} came; there are {SLOTS:,}")
        if not fds:
            self._drop(slot)
            raise malformed(
                "a region of shared memory came without its descriptor; this process may have "
                "none left (ulimit -n)"
            )
        if size > self._largest + ROUND:
            raise FrameError(
                ErrorCode.TOO_LARGE,
                f"a region of {size:,} bytes came; the limit is {self._largest:,}",
            )
        check_memory_file(fds[0], size)
        try:
            mapping = Mapping(fds[0], size, populate=True)
        except OSError:  # too many mappings
            return slot, _Mapped(generation, self._copied(slot, fds[0], size), None)
        return slot, _Mapped(generation, mapping.memory, mapping)

    def _copied(self, slot: int, fd: int, size: int) -> memoryview:
        try:
            return memoryview(copy_memory_file(fd, size))
        except (OSError, MemoryError):
            self._drop(slot)
            raise FrameError(
                ErrorCode.TOO_LARGE, f"there is no memory for a region of {size:,} bytes"
            ) from None

    def forget(self, entry: TableEntry) -> None:
        """Drop the mapping of a region that its owner closed; arrays over it keep it alive.

        Its slot may have been given to a newer region before this was said.
        """
        found = self._mapped.get(entry.region)
        if found is not None and found.generation == entry.generation:
            del self._mapped[entry.region]

    def close(self) -> None:
        """Drop every mapping; arrays over them keep those that they need."""
        self._table = None
        self._mapped.clear()
        self._spare.close()


@dataclass(frozen=True)
class _Mapped:
    """A region of the other end: its bytes, which are a copy where it could not be mapped."""

    generation: int
    memory: memoryview
    mapping: Mapping | None


class _SpareDescriptor:
    """A descriptor kept for when this process has no other left to receive a region with."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._closed = False
        self._open()
        close_in_forked_child(self)

    def _open(self) -> None:
        with suppress(OSError):  # there is none left; regions may still find one
            self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Within the block, its place is free."""
        self._give_up()
        try:
            yield
        finally:
            if not self._closed:
                self._open()

    def _give_up(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Keep none any more."""
        self._closed = True
        self._give_up()


class _Lease(np.ndarray[Any, Any]):
    """The base of every array over a region: when it dies, no array over the region is left."""


class _Watch(weakref.ref[_Lease]):
    """Adds itself to ``unread`` when a lease dies, without a step of Python that Ctrl-C could cut.

    Attributes:
        slot: The region of the lease.
        mark: When the lease was made, for those who count forks.
    """

    __slots__ = ("mark", "slot")
    slot: int
    mark: int


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)
