"""Shared memory between the two ends of a channel on one machine: large buffers without a pipe.

Each end owns the regions that it fills, and lends them. A region is an anonymous memory file,
sized once and sealed, whose descriptor travels once over a side socket, once it is filled: what
the receiver maps is never larger than what the sender has taken already. The receiver lays a
writable array over it; when the last array over it is gone, it sets the region's byte in a small
shared table, and the owner sees that when it next looks for a free one. There is no message, no
lock, and no name: nothing can be left behind. Neither end keeps a descriptor.

Free regions keep their memory, since taking memory anew costs several times a copy; after some
seconds without use the owner empties those beyond a bound, for both ends. A receiver that cannot
map a region copies it, and tells the owner by the same byte that it does not have it.

Whether the side socket leads to the same machine at all is proved first: an end *offers* its
table by a frame entry that repeats a token written into the table; who finds the token in what
the side socket brought has the proof, and offers its own table in return, which the first end
*accepts*. Without proof everything goes inline, with the same meaning.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Sized
from contextlib import suppress
from typing import Any

from soma_core.channel.borrower import Borrower
from soma_core.channel.forks import close_in_forked_child
from soma_core.channel.lender import Lender
from soma_core.channel.region_table import RETAINED
from soma_core.wire.frames import EntryKind, TableEntry

THRESHOLD = 48 * 1024
"""Buffers of at least so many bytes go through shared memory; below, copying inline is faster."""

DEFAULT_LARGEST = 1 << 40
_LENT_KINDS = frozenset({EntryKind.SHARED, EntryKind.MAP})
_REST_AFTER = 5.0  # seconds; a call in a loop takes less, as a rule


class SharedMemory:
    """One end's half of shared memory, over its end of a side socket.

    Args:
        side: A connected Unix socket beside the channel; owned by this object.
        initiate: Whether this end makes the first offer: the host's does.
        largest: The largest region to accept, in bytes.
        retained: Bytes that regions keep while they rest, in each direction; who makes the first
            offer decides for both ends.
        rest_after: Seconds without use after which regions of this end rest.

    Attributes:
        announcements: The entries that the next frame must carry.
        unread: Not empty if there is something to :meth:`give_back`.
        recalls: The numbers by which this end takes messages back; None if it cannot.
        on_recallable: Called with those of the other end, once it can.
    """

    def __init__(
        self,
        side: socket.socket,
        *,
        initiate: bool,
        largest: int = DEFAULT_LARGEST,
        retained: int = RETAINED,
        rest_after: float = _REST_AFTER,
    ) -> None:
        side.setblocking(False)
        close_in_forked_child(side)
        self._side = side
        self.announcements: list[TableEntry] = []
        self._lent = Lender(side, self.announcements, retained, rest_after)
        self._borrowed = Borrower(side, largest)
        self.unread: Sized = self._borrowed.unread
        self.recalls: memoryview | None = None
        self.on_recallable: Callable[[memoryview], None] | None = None
        self._usable = False
        self._trims_itself = initiate
        self._rest_after = rest_after
        self._timer: threading.Timer | None = None
        if initiate:
            self._make_offer()

    def take_back(self, entries: Iterable[TableEntry]) -> None:
        """Note that a frame was not sent after all.

        Args:
            entries: The entries of its buffer table.
        """
        for entry in entries:
            if entry.kind in _LENT_KINDS:
                self._lent.take_back(entry)
            else:
                self.announcements.append(entry)

    def announce(self) -> list[TableEntry]:
        """Take the entries that the next frame must carry."""
        entries = self.announcements.copy()
        self.announcements.clear()
        return entries

    def lend(self, buffer: Any) -> TableEntry | None:
        """Copy a buffer into a region.

        Args:
            buffer: Bytes that lie in memory one by one.

        Returns:
            The entry of the buffer table that names the region; None if the buffer must go inline.
        """
        if not self._usable:
            return None
        entry = self._lent.place(buffer)
        if self._trims_itself and self._timer is None and self._lent.excess > 0:
            self._trim_later()
        return entry

    def give_back(self) -> None:
        """Let the other end have its regions back over which no array is left here."""
        self._borrowed.give_back()

    def rest(self) -> None:
        """Give up memory that is not used; a worker calls this while it waits for a command."""
        if self._usable and not self._trims_itself:
            self._borrowed.give_back()
            self._lent.trim()

    def _trim_later(self) -> None:
        """A host waits for nothing between its calls: a thread comes back after a while."""
        timer = threading.Timer(self._rest_after + 1.0, self._trim)
        timer.daemon = True
        with suppress(RuntimeError):  # no thread can be started now: the next call tries again
            timer.start()
            self._timer = timer

    def _trim(self) -> None:
        self._timer = None
        if self._usable:
            self._borrowed.give_back()
            if self._lent.trim() or self._borrowed.reads:
                self._trim_later()

    def take(self, entry: TableEntry) -> memoryview | None:
        """Act on an entry that came.

        Args:
            entry: The entry of a buffer table.

        Returns:
            The bytes that it lends, or None if it is no buffer.

        Raises:
            ProtocolError: ``malformed``: what it names does not exist or is not safe to read.
        """
        if entry.kind in _LENT_KINDS:
            self._lent.touch()
            if self._trims_itself and self._timer is None:
                self._trim_later()
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
        self.recalls = self.on_recallable = None
        if self._timer is not None:
            self._timer.cancel()
        self._side.close()
        self._lent.close()
        self._borrowed.close()

    def _make_offer(self) -> None:
        offer = self._lent.offer()
        if self._trims_itself:
            self.recalls = self._lent.recalls
        if offer is not None:
            self.announcements.append(offer)

    def _consider(self, offer: TableEntry) -> None:
        """Look for the proof of an offer; with it, offer in return, or accept."""
        retained = self._borrowed.open_table(offer)
        if retained is None:
            return
        recalls = self._borrowed.recalls
        if recalls is not None and self.on_recallable is not None and not self._trims_itself:
            self.on_recallable(recalls)
        if self._lent.offered:
            self._usable = True
            self.announcements.append(TableEntry(EntryKind.ACCEPT, 0, 0, 0))
        else:
            self._lent.retained = retained
            self._make_offer()
