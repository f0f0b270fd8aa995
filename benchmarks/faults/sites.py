"""Where faults happen: workers over each transport whose processes are found wherever they go."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

import soma_core as soma
from soma_core.testing import OpenResources, ProcessMark

TRANSPORTS = ("stdio", "socket")
_START = 120.0  # seconds; the machine may have other work
_RELEASED = 10.0
_SHARED_MEMORY = "/dev/shm"
_OURS = "soma"  # other programs of this machine have names there too
_OF_A_SITE = f"{_OURS}-of-"  # and other sites
_SETTLE = 40.0  # seconds; processes that leave a worker's session on purpose end within 20


class Site:
    """A socket daemon and whatever is started beside it, all marked.

    Attributes:
        mark: What its processes bear.
        names: What names that its filters give to shared memory begin with.
        notes: A directory for what its processes note.
        environment: What they are started with.
        path: Where the daemon listens.
        daemon: The process.
    """

    def __init__(self, directory: Path) -> None:
        self.mark = ProcessMark()
        self.names = f"{_OF_A_SITE}{uuid.uuid4().hex[:8]}-"
        self._files, self.notes = directory / "files", directory / "notes"
        self._files.mkdir()
        self.notes.mkdir()
        self._variables = {**self.mark.environment, "TMPDIR": str(self._files)}
        self.environment = {**os.environ, **self._variables}
        self.path = directory / "soma.sock"
        self._directory = directory
        self.daemon = self.start_daemon(self.path)

    def start_daemon(self, path: Path) -> subprocess.Popen[bytes]:
        """A daemon that listens at a path; it does so when this returns."""
        daemon = subprocess.Popen(
            [sys.executable, "-m", "soma_transport_socket", "--path", str(path)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return daemon

    def settle(self) -> None:
        """Note what is held when nothing has happened yet."""
        for transport in TRANSPORTS:  # opens what is opened once and kept
            self.connect(transport).close()
        self._left_alone({self.daemon.pid}, 10.0)
        self._before = OpenResources.of()
        self._known = self._names_now()
        self._daemon_before = psutil.Process(self.daemon.pid).num_fds()

    def options(self, transport: str) -> dict[str, Any]:
        """The options with which a worker over a transport is one of this site's."""
        return {"path": self.path} if transport == "socket" else {"env": self._variables}

    def connect(self, transport: str, **arguments: Any) -> soma.Worker:
        """A worker over a transport."""
        return soma.connect(transport, **self.options(transport), **arguments)

    def _left_alone(self, but: set[int], seconds: float) -> set[int]:
        return self.mark.wait_until_gone(seconds, but=but)

    def leftovers(self) -> list[str]:
        """What is there now and was not at the beginning, when every worker is closed."""
        found = [f"process {pid}" for pid in self._left_alone({self.daemon.pid}, _SETTLE)]
        now = self._before.wait_until_released(_RELEASED)
        if now.exceeds(self._before):
            found.append(f"of the host: {self._before} became {now}")
        descriptors = self._daemon_descriptors()
        if descriptors > self._daemon_before:
            found.append(f"descriptors of the daemon: {self._daemon_before} became {descriptors}")
        return found + self._names()

    def _names(self) -> list[str]:
        """Files and shared memory that are left and were not told before."""
        deadline = time.monotonic() + _RELEASED
        while (found := self._names_now() - self._known) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._known |= found
        return sorted(found)

    def _names_now(self) -> set[str]:
        ours = {self._files.name, self.notes.name, self.path.name}
        files = [*(set(os.listdir(self._directory)) - ours), *os.listdir(self._files)]
        names = os.listdir(_SHARED_MEMORY) if os.path.isdir(_SHARED_MEMORY) else []
        memory = {f"{_SHARED_MEMORY}/{name}" for name in names if self._is_ours(name)}
        return {f"file {name}" for name in files} | memory

    def _is_ours(self, name: str) -> bool:
        return name.startswith(self.names if name.startswith(_OF_A_SITE) else _OURS)

    def _daemon_descriptors(self) -> int:
        deadline = time.monotonic() + _RELEASED
        daemon = psutil.Process(self.daemon.pid)
        while daemon.num_fds() > self._daemon_before and time.monotonic() < deadline:
            time.sleep(0.05)
        return int(daemon.num_fds())

    def stop(self) -> list[str]:
        """End the daemon; what is left after that."""
        self.daemon.terminate()
        status = self.daemon.wait(20.0)
        found = [f"process {pid}" for pid in self._left_alone(set(), 10.0)]
        found += self._names()
        if self.path.exists():
            found.append(f"the socket {self.path}")
        return found + ([f"the daemon ended with status {status}"] if status else [])


@contextmanager
def site() -> Iterator[Site]:
    """A site for the time of the block; nothing of it stays."""
    with tempfile.TemporaryDirectory(prefix="soma-") as directory:
        made = Site(Path(directory))
        try:
            made.settle()
            yield made
        finally:
            if made.daemon.poll() is None:
                made.daemon.kill()
                made.daemon.wait()
            made.mark.kill()


def open_stdio(children: list[subprocess.Popen[bytes]]) -> socket.socket:
    """A connection to a new stdio daemon, as a host in another language would open it."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-P", "-m", "soma_transport_stdio"]
        children.append(
            subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
        )
    return ours


def open_socket(path: Path) -> socket.socket:
    """A connection to the socket daemon, as a host in another language would open it."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    return connection
