"""Deadlines hold in hosts whose sockets another library keeps from blocking, as gevent does."""

from __future__ import annotations

import importlib.util
import select
import socket
import subprocess
import sys
from collections import deque
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from soma_core.streams import SocketStream


class Cooperative(socket.socket):
    """Never blocks in the kernel: waits elsewhere, for as long as its timeout says."""

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self._patience: float | None = None
        super().settimeout(0.0)

    def settimeout(self, value: float | None) -> None:
        self._patience = value

    def recv_into(self, *args: Any) -> int:
        self._wait(select.POLLIN)
        return super().recv_into(*args)

    def send(self, *args: Any) -> int:
        self._wait(select.POLLOUT)
        return super().send(*args)

    def _wait(self, event: int) -> None:
        poller = select.poll()
        poller.register(self.fileno(), event)
        if not poller.poll(None if self._patience is None else self._patience * 1000):
            raise TimeoutError("timed out")


def test_reading_and_writing_end_by_their_deadline() -> None:
    ours, theirs = socket.socketpair()
    stream = SocketStream(Cooperative(ours.detach()))
    slices: list[float] = []
    stream.on_wait = lambda: slices.append(monotonic())
    with theirs, pytest.raises(TimeoutError):
        stream.read_into(memoryview(bytearray(8)), monotonic() + 0.5)
    assert slices
    stream.close()


def test_what_comes_late_is_read_all_the_same() -> None:
    ours, theirs = socket.socketpair()
    stream = SocketStream(Cooperative(ours.detach()))
    stream.on_wait = lambda: theirs.sendall(b"late") if theirs.fileno() >= 0 else None  # type: ignore[func-returns-value]
    buffer = bytearray(8)
    with theirs:
        assert stream.read_into(memoryview(buffer), None) == 4
    assert buffer[:4] == b"late"
    stream.close()


def test_a_full_buffer_is_written_on_by_the_deadline() -> None:
    ours, theirs = socket.socketpair()
    stream = SocketStream(Cooperative(ours.detach()))
    with theirs, pytest.raises(TimeoutError):
        deque((stream.write(bytes(1 << 16), monotonic() + 0.3) for _ in count()), maxlen=0)
    stream.close()


def test_what_can_be_done_without_waiting_is_done_without_waiting() -> None:
    ours, theirs = socket.socketpair()
    cooperative = Cooperative(ours.detach())
    stream = SocketStream(cooperative)
    cooperative.settimeout(None)  # a wait would not end
    buffer = memoryview(bytearray(8))
    with theirs:
        assert stream.read_now(buffer) is None
        theirs.sendall(b"now")
        assert stream.read_now(buffer) == 3
        while stream.write_now(bytes(1 << 16)):
            pass
    stream.close()


SCRIPT = """
from gevent import monkey; monkey.patch_all()
import soma_core as soma

class Sleep(soma.Filter):
    def forward(self, x, state):
        import time
        time.sleep(x)
        return "slept"

if __name__ == "__main__":
    for limit in ("timeout", "stall_timeout"):
        with soma.connect("stdio", filters={"s": Sleep()}, **{limit: 0.5}) as worker:
            assert worker.forward("s", 0.0) == "slept"
            try:
                worker.forward("s", 30.0)
            except soma.DeadlineExceeded as error:
                print(limit, error.worker_survived)
    with soma.Executor(1, timeout=0.5) as executor:
        print(type(executor.submit(Sleep().forward, 30.0, None).exception()).__name__)
        try:
            soma.WorkerPool("stdio", 1, filters={})
        except soma.StartFailed as error:
            print("gevent" in str(error))
"""


@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed")
def test_deadlines_hold_under_gevent(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    expected = "timeout True\nstall_timeout True\nDeadlineExceeded\nTrue\n"
    assert done.stdout == expected, done.stderr
