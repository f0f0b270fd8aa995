"""Shared memory between two channels: agreed on by proof, lent and given back, never trusted."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile

import numpy as np
import pytest

import soma_core as soma
from soma_core.channel.memory_file import Mapping
from soma_core.channel.shared_memory import THRESHOLD, SharedMemory
from soma_core.errors import ChannelClosed, ProtocolError
from soma_core.streams import SocketStream, StreamChannel
from soma_core.transport import Message
from soma_core.wire.frames import EntryKind, TableEntry

from ..support import filters as f

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")


@pytest.fixture
def ends():
    """Two channels that have agreed on shared memory, with their side sockets."""
    wires, sides = socket.socketpair(), socket.socketpair()
    host = StreamChannel(SocketStream(wires[0]), None, SharedMemory(sides[0], initiate=True))
    worker = StreamChannel(SocketStream(wires[1]), None, SharedMemory(sides[1], initiate=False))
    for sender, receiver in ((host, worker), (worker, host), (host, worker)):
        sender.send(Message(b"{}"))
        assert receiver.receive(5).buffers == []
    yield host, worker, sides
    host.close()
    worker.close()


def regions() -> int:
    with open("/proc/self/maps") as maps:
        return sum("memfd:soma" in line for line in maps)


def _raising(error):
    def refuse(*_, **__):
        raise error

    return refuse


def passed(sender, receiver, data):
    sender.send(Message(b"{}", [data.data]))
    (buffer,) = receiver.receive(5).buffers
    return np.frombuffer(buffer, data.dtype)


@pytest.mark.parametrize("direction", [1, -1])
def test_a_large_buffer_arrives_writable_and_without_an_alias(ends, direction):
    sender, receiver = ends[:2][::direction]
    sent = np.arange(THRESHOLD, dtype=np.float64)
    got = passed(sender, receiver, sent)
    assert np.array_equal(got, sent)
    got[:] = -1
    assert sent[1] == 1.0


def test_a_region_is_used_again_only_when_the_last_array_over_it_is_gone(ends):
    host, worker, _ = ends
    first = passed(host, worker, np.full(THRESHOLD, 1.0))
    view = first[10:20]
    del first
    before = regions()
    second = passed(host, worker, np.full(THRESHOLD, 2.0))
    assert regions() == before + 2, "a region that is still read was used again"
    assert (view == 1.0).all()
    assert (second == 2.0).all()
    del view, second
    for value in range(20):
        worker.send(Message(b"{}"))  # whoever has read says so before it sends
        host.receive(5)
        assert (passed(host, worker, np.full(THRESHOLD, float(value))) == value).all()
    assert regions() == before + 2, "free regions were not used again"


def test_what_a_call_lent_is_given_back_before_its_reply_comes():
    x, before = np.ones(1 << 17), regions()
    with soma.connect("stdio", filters={"scale": f.Scale()}) as worker:
        for _ in range(4):
            worker.forward("scale", x)
        assert regions() - before == 4  # a table and a region each way


def test_a_region_for_which_there_is_no_memory_costs_one_message(ends, monkeypatch):
    host, worker, _ = ends

    with monkeypatch.context() as short:
        short.setattr("soma_core.channel.borrower.Mapping", _raising(OSError))  # no mappings
        short.setattr("soma_core.channel.borrower.copy_memory_file", _raising(MemoryError))
        host.send(Message(b"{}", [bytes(THRESHOLD)]))
        with pytest.raises(ProtocolError, match="no memory for a region"):
            worker.receive(5)
    data = np.arange(THRESHOLD)
    assert np.array_equal(passed(host, worker, data), data)


def test_what_a_message_lent_beside_that_region_is_given_back(ends, monkeypatch):
    host, worker, _ = ends
    three = Message(b"{}", [bytes(THRESHOLD)] * 3)
    with monkeypatch.context() as short:
        tried = iter([_raising(OSError), Mapping, Mapping])
        short.setattr("soma_core.channel.borrower.Mapping", lambda *a, **k: next(tried)(*a, **k))
        short.setattr("soma_core.channel.borrower.copy_memory_file", _raising(MemoryError))
        host.send(three)
        with pytest.raises(ProtocolError, match="no memory for a region"):
            worker.receive(5)
    before = regions()
    worker.send(Message(b"{}"))
    host.receive(5)
    host.send(three)
    assert len(worker.receive(5).buffers) == 3
    assert regions() == before + 1, "the one that is mapped now"


def test_what_messages_lent_that_were_not_sent_at_once_is_free(ends, monkeypatch):
    host, _, _ = ends
    message = Message(b"{}", [bytes(THRESHOLD)])
    before = regions()
    with monkeypatch.context() as short:
        short.setattr("soma_core.channel.streams.write_frame", _raising(MemoryError))
        for _ in range(3):
            with pytest.raises(MemoryError):
                host.send_now(message, message)
    assert regions() == before + 1, "the one that is lent again each time"


def test_an_array_outlives_its_channel(ends):
    host, worker, _ = ends
    got = passed(host, worker, np.arange(THRESHOLD))
    host.close()
    worker.close()
    assert got[-1] == THRESHOLD - 1
    got[:] = 0


def said(*texts):
    return [Message(text.encode()) for text in texts]


def test_what_the_other_end_has_not_taken_is_taken_back_and_nothing_else(ends):
    host, worker, _ = ends
    for burst in ("abcd", "efgh"):
        first, second, *rest = said(*burst)
        assert host.send_now(first, second, *rest)
        assert worker.receive(5).header == first.header
        worker.send(first)
        assert worker.receive(5).header == second.header
        assert host.take_back() == len(rest)
        assert host.take_back() == 0
        worker.send(second)
    last, after = said("last", "after")
    host.send(last)
    assert worker.receive(5).header == last.header
    host.send(after)
    assert host.take_back() == 1
    with pytest.raises(TimeoutError):
        worker.receive(0.001)


def _while_it_takes_back(host, monkeypatch, happen):
    """Have a sender take back its messages, and something happen before it has decided which."""
    pauses = iter([happen])
    monkeypatch.setattr("os.sched_yield", lambda: next(pauses, lambda: None)())
    return host.take_back()


def test_a_wait_for_a_sender_that_stops_while_it_takes_back_ends_by_its_deadline(ends, monkeypatch):
    host, worker, _ = ends
    first, second, third = said("first", "second", "third")
    host.send_now(first, second, third)
    assert worker.receive(5).header == first.header

    def stop():
        for _ in range(2):
            with pytest.raises(TimeoutError):
                worker.receive(0.001)

    assert _while_it_takes_back(host, monkeypatch, stop) == 1
    assert worker.receive(5).header == second.header
    host.send(first)
    assert worker.receive(5).header == first.header


def test_what_a_sender_was_about_to_take_back_when_it_was_killed_is_dropped(ends, monkeypatch):
    host, worker, _ = ends
    host.send_now(*said("first", "second"))
    worker.receive(5)

    def kill():
        host.close()
        with pytest.raises(ChannelClosed, match="the other end"):
            worker.receive()

    _while_it_takes_back(host, monkeypatch, kill)


def test_a_sender_that_is_interrupted_while_it_takes_back_has_taken_back_nothing(ends, monkeypatch):
    host, worker, _ = ends
    messages = said("first", "second")
    host.send_now(*messages)
    worker.receive(5)
    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        _while_it_takes_back(host, context, _raising(KeyboardInterrupt))
    assert worker.receive(5).header == messages[1].header


def test_nothing_is_taken_back_once_the_other_end_has_refused_a_message(ends, monkeypatch):
    host, worker, _ = ends
    host.send(Message(b"{}", [bytes(THRESHOLD)]))
    with monkeypatch.context() as short:
        short.setattr("soma_core.channel.borrower.Mapping", _raising(OSError))
        short.setattr("soma_core.channel.borrower.copy_memory_file", _raising(MemoryError))
        with pytest.raises(ProtocolError):
            worker.receive(5)
    host.send_now(*said("a", "b", "c"))
    assert host.take_back() == 0


def test_a_forked_child_does_not_give_back_what_its_parent_reads(ends):
    host, worker, _ = ends
    kept = passed(host, worker, np.full(THRESHOLD, 7.0))
    child = os.fork()
    if child == 0:
        del kept
        os._exit(0)
    os.waitpid(child, 0)
    other = passed(host, worker, np.full(THRESHOLD, 8.0))
    assert (kept == 7.0).all()
    assert (other == 8.0).all()


def test_what_a_forked_child_still_reads_is_not_used_again_before_it_ends(ends):
    host, worker, _ = ends
    kept = passed(host, worker, np.full(THRESHOLD, 7.0))
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(tell)
        os.read(told, 1)  # until the parent is done with its own
        os._exit(0 if (kept == 7.0).all() else 1)
    os.close(told)
    del kept
    before = regions()
    for value in range(5):
        assert (passed(host, worker, np.full(THRESHOLD, float(value))) == value).all()
    assert regions() > before - 2, "the child's region was used again"
    os.close(tell)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the child's array changed under it"
    now = regions()
    for value in range(5):
        passed(host, worker, np.full(THRESHOLD, float(value)))
    assert regions() == now, "the region of a child that has ended was not used again"


FORKS = """
import os, sys, threading
from soma_core.channel.forks import forked_readers

mark = forked_readers.mark()
sys.setswitchinterval(1e-6)

def fork():
    for _ in range(25):
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)

threads = [threading.Thread(target=fork) for _ in range(4)]
for step in (threading.Thread.start, threading.Thread.join):
    for thread in threads:
        step(thread)
assert forked_readers.gone_since(mark)
"""


def test_threads_that_fork_at_once_close_no_descriptors_of_each_other():
    host = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS], capture_output=True, text=True
    )
    assert (host.returncode, host.stderr) == (0, "")


def send_region(side, fd, size, slot=9, generation=99):
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
    side.sendmsg([struct.pack("<IQQ", slot, generation, size)], [rights])


def lend(channel_memory, size):
    return channel_memory.take(TableEntry(EntryKind.SHARED, 9, 99, size))


@pytest.fixture
def agreed():
    """The worker's half, and the host's side socket to lie over."""
    sides = socket.socketpair()
    host, worker = (SharedMemory(side, initiate=side is sides[0]) for side in sides)
    for entry in host.announce():
        worker.take(entry)
    for entry in worker.announce():
        host.take(entry)
    yield worker, sides[0]
    host.close()
    worker.close()


def test_a_file_that_could_shrink_is_refused(agreed):
    worker, side = agreed
    fd = os.memfd_create("lie", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 65536)
    send_region(side, fd, 65536)
    os.close(fd)
    with pytest.raises(ProtocolError, match="not sealed"):
        lend(worker, 100)


def test_a_file_on_a_disk_is_refused(agreed):
    worker, side = agreed
    with tempfile.TemporaryFile() as file:
        file.truncate(65536)
        send_region(side, file.fileno(), 65536)
    with pytest.raises(ProtocolError, match="not a memory file"):
        lend(worker, 100)


def test_a_size_that_lies_is_refused(agreed):
    worker, side = agreed
    fd = os.memfd_create("lie", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    send_region(side, fd, 65536)
    os.close(fd)
    with pytest.raises(ProtocolError, match="size that was announced"):
        lend(worker, 100)


def test_more_than_a_region_holds_cannot_be_lent(agreed):
    worker, side = agreed
    fd = os.memfd_create("small", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    send_region(side, fd, 4096)
    os.close(fd)
    with pytest.raises(ProtocolError, match=r"lends 5,000 bytes of a region that has 4,096"):
        lend(worker, 5000)


def test_an_offer_without_its_proof_shares_nothing():
    sides = socket.socketpair()
    worker = SharedMemory(sides[1], initiate=False)
    worker.take(TableEntry(EntryKind.OFFER, 0, 1, 2))  # nothing came over the side socket
    assert worker.announce() == []
    assert worker.lend(bytes(THRESHOLD)) is None
    with pytest.raises(ProtocolError, match="not agreed on"):
        lend(worker, 10)
    worker.close()
    sides[0].close()
