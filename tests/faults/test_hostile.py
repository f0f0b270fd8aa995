"""Hostile filters, clients and ends: each call ends as promised, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import product

import psutil
import pytest

import soma_core as soma
from soma_core.testing import CallEnd, ProcessMark, attempt
from soma_transport_socket.messages import MAGIC

from ..support import (
    PROCESSES,
    SocketDaemon,
    gate_runs,
    nightly,
    short_directory,
    socket_daemon,
    wait_until,
)
from ..support import filters as f
from .misdeeds import MISDEEDS

DEADLINE = 3.0
TYPED = {
    CallEnd.RESULT,
    CallEnd.REMOTE_ERROR,
    CallEnd.WORKER_DIED,
    CallEnd.DEADLINE_EXCEEDED,
}
SAMPLE = [
    ("socket", "closes all sockets and sleeps"),
    ("stdio", "becomes another program"),
]


class Site:
    """A daemon, and a mark by which all that comes of it or of this test's workers is found."""

    def __init__(self, daemon: SocketDaemon, mark: ProcessMark) -> None:
        self.daemon, self.mark = daemon, mark

    def options(self, transport: str) -> dict[str, object]:
        if transport == "socket":
            return {"path": self.daemon.path}
        return {"env": self.mark.environment}

    def assert_nothing_left(self) -> None:
        assert self.mark.wait_until_gone(20.0, but={self.daemon.pid}) == set()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    mark = ProcessMark()
    with (
        short_directory() as directory,
        socket_daemon(directory / "s", env={**os.environ, **mark.environment}) as daemon,
    ):
        yield Site(daemon, mark)


@pytest.mark.parametrize(
    ("transport", "name"), gate_runs(*SAMPLE, of=list(product(PROCESSES, MISDEEDS)))
)
def test_a_filter_that_misbehaves_harms_its_own_worker_only(site, transport, name):
    options = {**site.options(transport), "output": "devnull"}
    worker = soma.connect(transport, filters={"bad": f.Apply(MISDEEDS[name])}, **options)
    trial = attempt(lambda: worker.forward("bad", 1, timeout=DEADLINE), DEADLINE)
    assert trial.end in TYPED, trial
    assert not trial.late, trial
    closing = attempt(worker.close, 5.0)
    assert closing.end is CallEnd.RESULT, closing
    assert not closing.late, closing
    with soma.connect(transport, filters={"echo": f.Echo()}, **options) as another:
        assert another.forward("echo", name) == name
    site.assert_nothing_left()


HOST = """
import os, signal, sys
import soma_core as soma

class Starts(soma.Filter):
    def forward(self, x, state):
        import os, subprocess, time
        subprocess.Popen(["sleep", "60"], process_group=0)
        subprocess.Popen(["sleep", "60"], start_new_session=True)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(60)
            os._exit(0)
        os.wait()
        if x == "closes":
            os.closerange(3, 1000)
        print("started", flush=True)
        if x != "returns":
            time.sleep(60)

if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored
    transport, path, what = sys.argv[1:]
    def show(line):
        sys.stdout.write(line + "\\n")
        sys.stdout.flush()
    worker = soma.connect(
        transport, filters={"starts": Starts()}, output=show, **({"path": path} if path else {})
    )
    worker.forward("starts", what)
    os.read(0, 1)
"""


def press(host: subprocess.Popen[str]) -> None:
    """Ctrl-C; again if Python had looked for signals just before it began to wait."""
    while host.poll() is None:
        host.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            host.wait(5.0)


HOW = {
    "SIGKILL": lambda host: host.kill(),
    "SIGTERM": lambda host: host.terminate(),
    "SIGHUP": lambda host: host.send_signal(signal.SIGHUP),
    "SIGINT": press,
    "SIGSEGV": lambda host: host.send_signal(signal.SIGSEGV),
    "the end of its input": lambda host: host.stdin.close(),
}


@nightly
@pytest.mark.parametrize("transport", PROCESSES)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("what", ["returns", "sleeps", "closes"])
def test_however_a_host_ends_all_that_its_filter_started_ends(site, transport, how, what, tmp_path):
    if what != "returns" and how == "the end of its input":
        pytest.skip("it waits for its call, and not for its input")
    script = tmp_path / "host.py"
    script.write_text(HOST)
    path = str(site.daemon.path) if transport == "socket" else ""
    host = subprocess.Popen(
        [sys.executable, str(script), transport, path, what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **site.mark.environment},
    )
    try:
        assert host.stdout.readline() == "started\n"
        HOW[how](host)
        host.wait(20.0)
    finally:
        host.kill()
        host.wait()
        host.stdout.close()
        host.stdin.close()
    site.assert_nothing_left()


REQUESTS: dict[str, bytes] = {
    "nothing": b"",
    "half of the start": MAGIC[:3],
    "the start alone": MAGIC,
    "no end of a line": MAGIC + b'{"op":"connect"',
    "a line of 100,000 bytes": MAGIC + b"x" * 100_000 + b"\n",
    "no JSON": MAGIC + b"hello\n",
    "an unknown request": MAGIC + b'{"op":"format"}\n',
    "an unknown field": MAGIC + b'{"op":"status","extra":1}\n',
    "a worker that is not there": MAGIC + b'{"op":"kill","worker":"../../1"}\n',
    "a name that is a path": MAGIC + b'{"op":"connect","session":"../x"}\n',
    "descriptors that did not come": MAGIC + b'{"op":"connect","attached":["memory"]}\n',
    "two requests": MAGIC + b'{"op":"sessions"}\n' + MAGIC + b'{"op":"sessions"}\n',
    "nested without end": MAGIC + b"[" * 4000 + b"\n",
    "zeros": bytes(5000),
    "the start of a frame": b"\x93SOMA\x02" + b"\xff" * 30,
    "a line that is no command": json.dumps({"cmd": "FORMAT"}).encode() + b"\n",
}


@nightly
@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("attached", [0, 8], ids=["alone", "with descriptors"])
def test_a_request_that_is_none_costs_the_daemon_nothing(site, name, attached):
    daemon = psutil.Process(site.daemon.pid)
    before = daemon.num_fds()
    for _ in range(5):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(site.daemon.path))
            if REQUESTS[name]:
                socket.send_fds(client, [REQUESTS[name]], [0] * attached)
    with soma.connect("socket", path=site.daemon.path, filters={"echo": f.Echo()}) as worker:
        assert worker.forward("echo", name) == name
    wait_until(lambda: daemon.num_fds() <= before, what="descriptors stay open in the daemon")
    site.assert_nothing_left()
