"""Shared memory takes no more than was sent, and does without where it must."""

from __future__ import annotations

import array
import fcntl
import os
import resource
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soma_core.channel import borrower
from soma_core.channel.region_table import RETAINED
from soma_core.channel.shared_memory import THRESHOLD, SharedMemory
from soma_core.errors import ProtocolError
from soma_core.wire.frames import EntryKind, TableEntry

from ..support import descriptors, nightly, run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Ends:
    """Two halves that have agreed, in one process."""

    def __init__(
        self, retained: int = RETAINED, of_worker: int = RETAINED, rest_after: float = 5.0
    ) -> None:
        self.sides = socket.socketpair()
        self.host, self.worker = (
            SharedMemory(side, initiate=side is self.sides[0], retained=kept, rest_after=rest_after)
            for side, kept in zip(self.sides, (retained, of_worker), strict=True)
        )
        for sender, receiver in ((self.host, self.worker), (self.worker, self.host)) * 2:
            for entry in sender.announce():
                receiver.take(entry)

    def pass_on(self, data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Lend an array from the worker to the host, as it arrives."""
        self.host.give_back()
        entry = self.worker.lend(data.data)
        assert entry is not None
        for told in self.worker.announce():
            self.host.take(told)
        found = self.host.take(entry)
        assert found is not None
        return np.frombuffer(found, data.dtype)

    def rest(self) -> None:
        """Let the worker rest, after the host has given back what it does not read any more."""
        self.host.give_back()
        self.worker.rest()

    def lie(self, fd: int, size: int, slot: int = 9, generation: int = 99) -> None:
        """Send a region to the host as the worker would."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
        self.sides[1].sendmsg([struct.pack("<IQQ", slot, generation, size)], [rights])


@pytest.fixture
def ends() -> Iterator[Ends]:
    with opened() as made:
        yield made


@contextmanager
def opened(**options: Any) -> Iterator[Ends]:
    made = Ends(**options)
    try:
        yield made
    finally:
        made.host.close()
        made.worker.close()


def mapped_and_resident() -> tuple[int, int]:
    """How many memory files of soma this process maps, and how many bytes of them are there."""
    count = resident = 0
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = "memfd:soma" in line
            count += inside
        elif inside and line.startswith("Rss:"):
            resident += int(line.split()[1]) * 1024
    return count, resident


@contextmanager
def sparse_file(size: int, filled: int) -> Iterator[int]:
    fd = os.memfd_create("sparse", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        os.pwrite(fd, b"x" * filled, 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize("filled", [0, 70, 1 << 20])
def test_a_memory_file_that_its_sender_has_not_filled_is_not_mapped(
    ends: Ends, filled: int
) -> None:
    size = 1 << 32
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with sparse_file(size, filled) as fd:
        ends.lie(fd, size)
        with pytest.raises(ProtocolError, match="its sender has filled"):
            ends.host.take(TableEntry(EntryKind.SHARED, 9, 99, size))
        assert os.fstat(fd).st_blocks * 512 <= filled + (1 << 16)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 16


def test_a_region_is_lent_once_until_it_is_given_back(ends: Ends) -> None:
    data = np.arange(float(THRESHOLD))
    entry = ends.worker.lend(data.data)
    assert entry is not None
    first = ends.host.take(entry)
    with pytest.raises(ProtocolError, match="is read already"):
        ends.host.take(entry)
    del first
    again = ends.worker.lend(data.data)
    assert again is not None
    assert ends.host.take(again) is not None


def test_neither_end_keeps_a_descriptor_of_a_region(ends: Ends) -> None:
    before = len(descriptors())
    kept = [ends.pass_on(np.full(THRESHOLD, float(n))) for n in range(20)]
    assert mapped_and_resident()[0] >= 40
    assert len(descriptors()) == before
    assert [array[-1] for array in kept] == list(map(float, range(20)))


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Within the block this process has as many descriptors as it may have."""
    taken = []
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, descriptors())) + 2, before[1]))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in taken:
            os.close(fd)


def test_a_region_is_received_with_the_last_descriptor(ends: Ends) -> None:
    data = np.arange(float(THRESHOLD))
    entries = [ends.worker.lend(data.data) for _ in range(3)]
    with no_descriptor_left():
        arrived = [ends.host.take(entry) for entry in entries if entry is not None]
    assert len(arrived) == 3
    assert all(np.array_equal(np.frombuffer(part or b"", float), data) for part in arrived)


def test_without_a_descriptor_there_is_no_region_and_the_buffer_goes_inline(ends: Ends) -> None:
    with no_descriptor_left():
        assert ends.worker.lend(np.zeros(THRESHOLD).data) is None
    assert ends.pass_on(np.ones(THRESHOLD)).sum() == THRESHOLD


def test_a_region_whose_descriptor_was_lost_is_made_anew(ends: Ends) -> None:
    data = np.arange(float(THRESHOLD))
    entry = ends.worker.lend(data.data)
    assert entry is not None
    announcement = ends.sides[0].recv(1000)  # without its descriptor
    ends.sides[1].send(announcement)
    with pytest.raises(ProtocolError, match="without its descriptor"):
        ends.host.take(entry)
    assert np.array_equal(ends.pass_on(data), data)


def test_a_region_that_cannot_be_mapped_is_copied_and_given_up(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patched:
        patched.setattr(borrower, "Mapping", refuse)
        copies = [ends.pass_on(np.full(THRESHOLD, float(n))) for n in range(5)]
    assert [copy[-1] for copy in copies] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert all(copy.flags.writeable for copy in copies)
    before = mapped_and_resident()[0]
    assert ends.pass_on(np.ones(THRESHOLD)).sum() == THRESHOLD
    assert mapped_and_resident()[0] <= before + 2, "the regions that were given up are kept"


@pytest.mark.parametrize("retained", [0, 1 << 20, 1 << 30])
def test_resting_regions_keep_what_they_may_and_are_used_again(retained: int) -> None:
    with opened(retained=retained, rest_after=0.0) as ends:
        _, before = mapped_and_resident()  # of other tests' workers
        data = np.ones(1 << 19)
        for _ in range(3):
            kept = [ends.pass_on(data) for _ in range(3)]
            del kept
            ends.rest()
            _, resident = mapped_and_resident()
            most = min(retained, 3 * data.nbytes) + (1 << 18)
            assert resident - before <= 2 * most, "both ends of it are in this process"
        assert np.array_equal(ends.pass_on(data), data)


def test_regions_that_are_read_are_not_emptied() -> None:
    with opened(retained=0, rest_after=0.0) as ends:
        kept = ends.pass_on(np.full(THRESHOLD, 3.0))
        ends.rest()
        assert (kept == 3.0).all()


def test_regions_that_are_in_use_keep_their_memory() -> None:
    with opened(retained=0, rest_after=1000.0) as ends:
        before = mapped_and_resident()[1]
        ends.pass_on(np.ones(1 << 19))
        ends.rest()
        assert mapped_and_resident()[1] - before >= 1 << 22


def test_a_host_decides_what_its_worker_keeps() -> None:
    with opened(retained=0, of_worker=1 << 40, rest_after=0.0) as ends:
        before = mapped_and_resident()[1]
        ends.pass_on(np.ones(1 << 19))
        ends.rest()
        assert mapped_and_resident()[1] - before < 1 << 20


KEEP_ALL = """
import resource, os, sys
import numpy as np
import soma_core as soma

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))

class Embed(soma.Filter):
    def forward(self, x, state):
        return np.full(6_200, x)

with soma.connect("stdio", filters={"embed": Embed()}) as worker:
    kept = [worker.forward("embed", float(n)) for n in range(4_500)]
    print(all((array == n).all() for n, array in enumerate(kept)))
    for process in ("self", worker.status().pid):
        print(len(os.listdir(f"/proc/{process}/fd")) < 30)
    open(os.devnull).close()
    del kept
    print(worker.forward("embed", 7.0).sum() == 43_400)
"""


@nightly
def test_results_are_kept_by_the_thousand_under_a_small_limit_of_descriptors(
    tmp_path: Path,
) -> None:
    said = run_python(KEEP_ALL, directory=tmp_path, timeout=110).stdout.split()
    assert said == ["True"] * 4
