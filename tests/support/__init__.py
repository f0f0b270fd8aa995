"""What the suites share: waiting for conditions, watching processes, starting the socket daemon."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from soma_core.errors import StartFailed
from soma_transport_socket import address

__all__ = [
    "PROCESSES",
    "ROOT",
    "TRANSPORTS",
    "SocketDaemon",
    "both",
    "both_at_night",
    "descriptors",
    "gate_runs",
    "guard_of",
    "is_running",
    "meanwhile",
    "nightly",
    "run_python",
    "short_directory",
    "socket_daemon",
    "wait_until",
    "wait_until_gone",
]

ROOT = Path(__file__).resolve().parents[2]
TRANSPORTS = ["inline", "stdio", "socket"]
PROCESSES = ["stdio", "socket"]
nightly = pytest.mark.nightly


def gate_runs(*chosen: Any, of: Sequence[Any]) -> list[Any]:
    """Cases for ``parametrize``: the gate runs the chosen ones, ``make nightly`` all.

    Args:
        chosen: For a matrix whose cases differ little: one or two of each kind.
        of: All cases; a tuple is one case with a value for each parameter.
    """
    assert set(chosen) <= set(of), f"{set(chosen) - set(of)} is in no case"
    return [
        pytest.param(*(case if isinstance(case, tuple) else [case]), marks=marks)
        for case in of
        for marks in [() if case in chosen else nightly]
    ]


both = pytest.mark.parametrize("transport", PROCESSES)
both_at_night = pytest.mark.parametrize("transport", gate_runs("stdio", of=PROCESSES))
either = pytest.mark.parametrize("transport", gate_runs("socket", of=PROCESSES))
"""For what the host does by itself, whatever carries its messages."""


def wait_until(condition: Callable[[], Any], timeout: float = 20.0, what: str = "") -> Any:
    """Poll until a condition holds, and return what it returned.

    Raises:
        AssertionError: It did not hold in time.
    """
    deadline = time.monotonic() + timeout
    while not (outcome := condition()):
        assert time.monotonic() < deadline, what or f"not within {timeout:g} s"
        time.sleep(0.01)
    return outcome


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Work in a thread beside a block, and no longer, whatever comes of the block.

    A signal that it sends comes within the test: one that came later would end the whole run.
    """
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie that nobody has reaped yet."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


def guard_of(mark: str) -> psutil.Process:
    """What ends the processes with a mark once this one is gone."""

    def found() -> list[psutil.Process]:
        commands = {one: one.as_dict(["cmdline"])["cmdline"] for one in psutil.Process().children()}
        return [one for one, words in commands.items() if f"SOMA_TREE={mark}" in (words or ())]

    return wait_until(found)[0]


def wait_until_gone(*pids: int, timeout: float = 20.0) -> None:
    """Wait until none of these processes runs any more."""
    wait_until(
        lambda: not any(is_running(pid) for pid in pids),
        timeout,
        f"of {pids} still running: {[pid for pid in pids if is_running(pid)]}",
    )


def descriptors(pid: int | str = "self") -> dict[str, str]:
    """The open file descriptors of a process, and what they are."""
    found = {}
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[entry] = os.readlink(f"/proc/{pid}/fd/{entry}")
        except FileNotFoundError:
            continue  # the one that listed the directory
    return found


@contextmanager
def short_directory() -> Iterator[Path]:
    """A new directory whose path leaves room for a socket's name."""
    path = Path(tempfile.mkdtemp(prefix="soma-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class SocketDaemon:
    """A running ``python -m soma_transport_socket``."""

    def __init__(self, path: Path, arguments: Sequence[str] = (), **options: Any) -> None:
        self.path = path
        command = [sys.executable, "-m", "soma_transport_socket", "--path", str(path), *arguments]
        self.process = subprocess.Popen(command, **options)
        self.pid = self.process.pid
        try:
            wait_until(self._listens, 30.0, f"no daemon came up at {path}")
        except BaseException:
            self.stop()
            raise

    def _listens(self) -> bool:
        assert self.process.poll() is None, f"the daemon ended: {self.process.returncode}"
        try:
            address.connect(self.path, 1.0).close()
        except (OSError, StartFailed):
            return False
        return True

    def stop(self) -> int:
        """End it with SIGTERM, by force if it must be, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            status = self.process.wait(20.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return status


@contextmanager
def socket_daemon(path: Path, *arguments: str, **options: Any) -> Iterator[SocketDaemon]:
    """A daemon at a path for the time of the block."""
    daemon = SocketDaemon(path, arguments, **options)
    try:
        yield daemon
    finally:
        daemon.stop()


def run_python(
    source: str,
    *arguments: object,
    directory: Path,
    timeout: float = 110.0,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a script from a file in a directory, as a user would; its output is text.

    Raises:
        AssertionError: It failed; the message is what it wrote.
    """
    script = directory / "script.py"
    script.write_text(source)
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, cwd=directory, **options
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
