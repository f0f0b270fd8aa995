"""``soma status`` and ``soma ping``, and what a daemon says to its log and to systemd."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from soma_core.client.connect import connect
from soma_transport_socket.daemon.systemd import notify

from ..support import short_directory, socket_daemon, wait_until
from .conftest import examples

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sessions need Linux")


@pytest.fixture(scope="module")
def directory():
    with short_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def daemon(directory):
    path = directory / "soma" / "soma.sock"
    with (
        (directory / "log").open("w") as log,
        socket_daemon(path, "--log-format", "json", stderr=log) as started,
    ):
        yield started


def events(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "log").read_text().splitlines()]


def test_status_and_ping_start_no_worker(soma, daemon):
    shown = json.loads(soma("status", "--path", daemon.path, "--json").stdout)
    assert (shown["pid"], shown["workers"]) == (daemon.pid, [])
    assert shown["memory"] > 0
    assert f"process {daemon.pid} answered in" in soma("ping", "--path", daemon.path).stderr
    assert json.loads(soma("status", "--path", daemon.path, "--json").stdout)["workers"] == []


@pytest.mark.parametrize("name", ["ping", "status", "sessions", "sessions list"])
def test_the_examples_of_the_help_work(soma, daemon, directory, monkeypatch, name):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    for arguments in examples(name):
        asked = [part.replace("/run/user/1000", str(directory)) for part in arguments]
        result = soma(*asked)
        assert result.exit_code == 0, result.output


def test_status_shows_sessions_and_workers_of_single_clients(soma, daemon, directory):
    with (
        connect("socket", path=daemon.path, session="warm") as shared,
        connect("socket", path=daemon.path) as own,
    ):
        pids = {shared.ping().pid: "warm", own.ping().pid: None}
        shown = json.loads(soma("status", "--path", daemon.path, "--json").stdout)["workers"]
        assert {worker["pid"]: worker["session"] for worker in shown} == pids
        assert all(worker["clients"] == 1 and worker["memory"] > 0 for worker in shown)
        lines = soma("status", "--path", daemon.path).stdout.splitlines()
        assert lines[0].split() == ["pid", "session", "clients", "up", "memory", "runs"]
        assert len(lines) == 3
        os.kill(own.ping().pid, signal.SIGKILL)
        wait_until(lambda: "worker ended" in (directory / "log").read_text())
    found = events(directory)
    assert {"listening", "client", "worker started", "worker ended"} <= {
        one["event"] for one in found
    }
    [ended] = [one for one in found if one["event"] == "worker ended"]
    assert pids[ended["worker"]] is None
    assert "SIGKILL" in ended["how"]


def test_without_a_daemon_ping_fails_and_names_the_command_to_start_one(soma, tmp_path):
    for command in ("ping", "status"):
        result = soma(command, "--path", tmp_path / "s")
        assert result.exit_code == 1
        assert "soma serve socket --path" in result.stderr


def test_a_transport_without_a_daemon_is_an_error(soma):
    result = soma("ping", "--transport", "stdio")
    assert result.exit_code == 1
    assert "no daemon that can be asked" in result.stderr


HANDED = """
import os, sys
from soma_transport_socket.daemon.systemd import handed_listener
for file, count, pid in zip(*[iter(sys.argv[1:])] * 3):
    os.dup2(int(file), 3)
    os.environ.update(LISTEN_PID=pid or str(os.getpid()), LISTEN_FDS=count, LISTEN_FDNAMES="soma")
    try:
        listening = handed_listener()
    except ValueError as error:
        print(error)
    else:
        left = [name for name in os.environ if name.startswith("LISTEN_")]
        print(listening and (listening.getsockname(), os.get_inheritable(3)), left)
"""


def test_a_daemon_takes_a_unix_stream_socket_of_systemd_and_nothing_else(directory):
    with (
        socket.socket(socket.AF_UNIX) as listening,
        socket.socket(socket.AF_UNIX) as pathless,
        socket.socket() as another,
        open(os.devnull) as file,
    ):
        path = directory / "taken.sock"
        listening.bind(str(path))
        pathless.bind(f"\0soma-{os.getpid()}")
        files = [str(one.fileno()) for one in (listening, pathless, another, file)]
        cases = [(one, "1", "") for one in files]
        cases += [(files[0], "2", ""), (files[0], "1", "1")]  # the last is for another process
        command = [sys.executable, "-c", HANDED, *(word for case in cases for word in case)]
        said = subprocess.check_output(command, pass_fds=map(int, files), text=True).splitlines()
    assert said[0] == f"({str(path)!r}, False) []"
    assert {line.partition(";")[0] for line in said[1:4]} == {
        "systemd handed over no Unix stream socket"
    }
    assert said[4:] == [
        "systemd handed over 2 sockets; give the unit one ListenStream=",
        "None []",
    ]


@pytest.mark.parametrize("name", ["told.sock", "@soma-{}"])
def test_systemd_hears_what_it_asked_for(directory, monkeypatch, name):
    name = name.format(os.getpid()) if name[0] == "@" else str(directory / name)
    notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("STOPPING=1")
        assert systemd.recv(100) == b"STOPPING=1"
    notify("READY=1")  # to nobody


@pytest.mark.nightly
def test_systemd_hands_over_the_socket_and_is_told_when_clients_are_served(soma, directory):
    path, told = directory / "handed.sock", directory / "told"
    handing = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); "
        "os.environ['LISTEN_PID'] = str(os.getpid()); "
        "os.execv(sys.executable, [sys.executable, '-m', 'soma_transport_socket'])"
    )
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
    ):
        listening.bind(str(path))
        listening.listen()
        systemd.bind(str(told))
        systemd.settimeout(30.0)
        daemon = subprocess.Popen(
            [sys.executable, "-c", handing, str(listening.fileno())],
            pass_fds=[listening.fileno()],
            env={**os.environ, "LISTEN_FDS": "1", "NOTIFY_SOCKET": str(told)},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert systemd.recv(100) == b"READY=1"
            assert f"process {daemon.pid} answered" in soma("ping", "--path", path).stderr
            daemon.terminate()
            assert systemd.recv(100) == b"STOPPING=1"
            assert daemon.wait(20.0) == 0
        finally:
            daemon.kill()
            daemon.wait()
    assert path.exists()  # it is systemd's
