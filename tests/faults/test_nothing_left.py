"""After ``kill -9`` of either side, at any moment: no process, no shared memory, no file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

from soma_core.channel.process_tree import TREE_VARIABLE, ProcessTree

from ..support import (
    gate_runs,
    guard_of,
    is_running,
    short_directory,
    socket_daemon,
    wait_until,
    wait_until_gone,
)

HOST = """
import sys
import numpy as np
import soma_core as soma

class Echo:
    def fit(self, x, y=None):
        return {}
    def forward(self, x, state):
        return x

def tell(moment):
    sys.stdout.write(moment + "\\n")
    sys.stdout.flush()

transport, path = sys.argv[1:]
tell("connect")
with soma.connect(transport, **({"path": path} if path else {})) as worker:
    tell(f"load {worker.ping().pid}")
    worker.load({"echo": Echo()})
    x = np.ones(4_000_000)
    held = []
    while True:
        for moment, value in [
            ("small", 1), ("inline", x[:5000]), ("large", x[:100_000]), ("larger", x),
        ]:
            tell(moment)
            held = [*held[-2:], worker.forward("echo", value)]
"""
MOMENTS = ["connect", "load", "small", "large", "larger"]
CASES = list(product(["stdio", "socket"], ["host", "worker"], MOMENTS))
SAMPLE = [
    ("stdio", "host", "connect"),
    ("socket", "worker", "load"),
]
MARK = "SOMA_TESTS_NOTHING_LEFT"


def marked(mark: str) -> list[int]:
    """The processes whose environment bears a mark."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended meanwhile, or is another user's
    return found


def shared_memory() -> set[str]:
    """The names of shared memory, without those of Python's own and of torch's in other tests."""
    return {
        name for name in os.listdir("/dev/shm") if not name.startswith(("sem.", "psm_", "torch"))
    }


@pytest.mark.parametrize(("transport", "victim", "moment"), gate_runs(*SAMPLE, of=CASES))
def test_kill_at_any_moment_leaves_nothing(
    transport: str, victim: str, moment: str, tmp_path: Path
) -> None:
    names = shared_memory()
    files = tmp_path / "files"
    files.mkdir()
    environment = {**os.environ, "TMPDIR": str(files), MARK: str(tmp_path)}
    with short_directory() as directory:
        path = directory / "s"
        served = transport == "socket"
        with socket_daemon(path, env=environment) if served else nullcontext() as daemon:
            stays = {daemon.pid} if daemon else set()
            run_until_killed(transport, str(path) if served else "", victim, moment, environment)
            wait_until(lambda: set(marked(str(tmp_path))) <= stays, what="a process is left")
    assert not marked(str(tmp_path))
    assert list(files.iterdir()) == []
    wait_until(lambda: shared_memory() <= names, what=f"{shared_memory() - names} is left")


def run_until_killed(
    transport: str, path: str, victim: str, moment: str, environment: dict[str, str]
) -> None:
    """Run a host up to the second time of a moment, or the first, and kill one side."""
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, transport, path],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert host.stdout is not None
    told: list[str] = []
    worker: int | None = None
    try:
        for line in host.stdout:
            told.append(line.split()[0])
            if line.startswith("load"):
                worker = int(line.split()[1])
            if told.count(moment) == (1 if moment in ("connect", "load") else 2):
                break
        else:
            raise AssertionError(host.communicate()[1])
        if victim == "host":
            host.kill()
        else:
            kill_worker(environment[MARK], worker)
        _, stderr = host.communicate(timeout=60.0)
    finally:
        host.kill()
        host.wait()
    if victim == "host":
        assert host.returncode == -signal.SIGKILL
    else:
        assert host.returncode == 1
        assert "WorkerDied" in stderr or "StartFailed" in stderr


def kill_worker(mark: str, pid: int | None) -> None:
    """Kill the worker; one that is still being started is found by its command."""
    found = [pid] if pid is not None else wait_until(lambda: list(filter(is_worker, marked(mark))))
    for worker in found:
        os.kill(worker, signal.SIGKILL)


def is_worker(pid: int) -> bool:
    """Whether the command of a process is that of a worker."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return b"soma_transport_stdio" in command or b"soma_transport_socket.worker" in command


# What tidies up after the others

TRACKER = """
import os, sys, signal, time  # what it is known by: resource_tracker import main
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("runs", flush=True)
if os.read(0, 1):
    open(sys.argv[1], "w").close()  # when it has its time
"""
OTHER = "import time; print('runs', flush=True); time.sleep(600)"


def starts(mark: str, source: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A process with the mark of a tree, which runs when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        env={**os.environ, TREE_VARIABLE: mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"runs\n"
    return process


class SlowTracker(NamedTuple):
    tracker: subprocess.Popen[bytes]
    other: subprocess.Popen[bytes]
    tidied: Path

    def tidies_up(self) -> None:
        self.tracker.communicate(b"x")
        assert self.tracker.returncode == 0
        assert self.tidied.exists()


@contextmanager
def slow_tracker(mark: str, directory: Path) -> Iterator[SlowTracker]:
    """A tracker that tidies up when it is told, and a process beside it."""
    other, tidied = starts(mark, OTHER), directory / "tidied"
    tracker = starts(mark, TRACKER, str(tidied))
    yield SlowTracker(tracker, other, tidied)
    for process in (tracker, other):
        process.kill()
        process.communicate()


@pytest.fixture
def tree() -> Iterator[ProcessTree]:
    """What does not wait for a tracker itself."""
    tree = ProcessTree(patience=0.0)
    yield tree
    tree.release()


def test_what_tidies_up_for_longer_than_anybody_waits_is_left_to_end(
    tree: ProcessTree, tmp_path: Path
) -> None:
    guard = guard_of(tree.mark)
    with slow_tracker(tree.mark, tmp_path) as slow:
        assert tree.kill(None), "nothing was left"
        assert slow.other.wait(20.0) == -signal.SIGKILL
        tree.release()
        assert is_running(guard.pid), "nobody looks after it"
        slow.tidies_up()
    wait_until_gone(guard.pid)


HELD = """
from soma_core.channel.process_tree import ProcessTree
tree = ProcessTree()
print(tree.mark, flush=True)
input()
"""


def test_what_tidies_up_is_left_to_end_when_the_host_is_gone(tmp_path: Path) -> None:
    host = subprocess.Popen(
        [sys.executable, "-c", HELD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert host.stdout is not None
    with slow_tracker(host.stdout.readline().strip(), tmp_path) as slow:
        host.kill()
        assert slow.other.wait(20.0) == -signal.SIGKILL
        slow.tidies_up()
    host.communicate()


def test_without_a_guard_what_tidies_up_has_its_moment_alone(
    tree: ProcessTree, tmp_path: Path
) -> None:
    with slow_tracker(tree.mark, tmp_path) as slow:
        tree.release()
        assert not tree.kill(None)
        assert slow.tracker.wait(20.0) == -signal.SIGKILL
