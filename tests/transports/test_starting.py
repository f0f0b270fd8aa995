"""A start that fails says what to do, and leaves nothing behind."""

from __future__ import annotations

import os
import socket
import sys

import pytest

import soma_core as soma
from soma_transport_socket import SocketTransport
from soma_transport_socket.messages import Answer

from ..support import (
    SocketDaemon,
    nightly,
    run_python,
    short_directory,
    socket_daemon,
    wait_until,
)
from ..support import filters as f


def takes_clients(daemon: SocketDaemon) -> bool:
    try:
        return SocketTransport.sessions(daemon.path) == []
    except soma.StartFailed:
        return False


SCARCE = """
import gc, os, resource, sys, threading
import soma_core as soma

transport, path = sys.argv[1:]
options = {"path": path} if path else {}

def held():
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()

def attempt():
    with soma.connect(transport, **options) as worker:
        worker.ping()

attempt()  # what is opened once stays
before = held()
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
failures = 0
for spare in range(-1, 40):
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] + spare, hard))
    try:
        attempt()
        break
    except soma.StartFailed as error:
        assert "Too many open files" in str(error) and "ulimit -n" in str(error), error
        failures += 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert held() == before, (spare, held(), before)
assert failures > 3
start = threading.Thread.start

def refuse(thread):
    raise RuntimeError("can't start new thread")

threading.Thread.start = refuse
try:
    attempt()
except soma.StartFailed as error:
    assert "ulimit -u" in str(error), error
else:
    raise AssertionError("a worker without a thread that reads what it prints")
try:
    soma.WorkerPool(transport, 2, **options)
except soma.StartFailed as error:
    assert "no thread" in str(error), error
else:
    raise AssertionError("a pool without threads")
threading.Thread.start = lambda thread: (start if thread.name == "soma-pool" else refuse)(thread)
try:
    soma.WorkerPool(transport, 2, **options)
except soma.StartFailed as error:
    assert "no thread" in str(error), error
else:
    raise AssertionError("workers without threads that read what they print")
threading.Thread.start = start
assert held() == before, (held(), before)
attempt()
"""


@pytest.mark.parametrize("transport", ["stdio", pytest.param("socket", marks=nightly)])
def test_a_start_without_descriptors_or_threads_is_refused_and_leaves_nothing(transport, tmp_path):
    with short_directory() as directory:
        if transport == "stdio":
            run_python(SCARCE, transport, "", directory=tmp_path)
        else:
            with socket_daemon(directory / "s") as daemon:
                run_python(SCARCE, transport, daemon.path, directory=tmp_path)


def test_a_program_that_is_not_there_is_named_with_what_to_check():
    with pytest.raises(soma.StartFailed, match=r"no-such-python.*check the options"):
        soma.connect("stdio", python="/no-such-python")


@pytest.mark.parametrize(
    ("noise", "quoted"),
    [
        ("echo Welcome to box", "Welcome to box"),
        ("printf loading...", "loading..."),
        ("""echo '{"level": "info"}'""", "{'level': 'info'}"),
    ],
    ids=["a line", "a line without an end", "an object of JSON"],
)
def test_what_a_worker_writes_before_it_answers_is_quoted(noise, quoted):
    worker = f"exec {sys.executable} -P -m soma_transport_stdio $1"
    with pytest.raises(soma.StartFailed, match="let it write to stderr") as caught:
        soma.connect("stdio", command=["sh", "-c", f"{noise}; {worker}", "sh"], start_timeout=2.0)
    assert quoted in str(caught.value)


def test_a_worker_stands_back_and_gets_what_it_may_have(monkeypatch):
    monkeypatch.setenv("PASSWORD_OF_THE_HOST", "secret")
    limits = {"memory_limit": "600M", "nice": 3, "env_inherit": False}
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    filters = {"call": f.Apply(lambda x, state: x())}
    with soma.connect("stdio", filters=filters, env={**paths, "GIVEN": "1"}, **limits) as worker:
        with pytest.raises(MemoryError):
            worker.forward("call", lambda: len(bytearray(1 << 30)))
        assert worker.forward("call", lambda: os.nice(0)) == os.nice(0) + 3
        found = worker.forward("call", lambda: dict(os.environ))
        assert found.keys() & {"PASSWORD_OF_THE_HOST", "PATH", "GIVEN"} == {"PATH", "GIVEN"}


def test_each_user_may_have_so_many_workers_and_clients():
    arguments = ("--max-workers-per-user=1", "--max-clients-per-user=2")
    with short_directory() as directory, socket_daemon(directory / "s", *arguments) as daemon:
        shared = {"path": daemon.path, "session": "shared"}
        with soma.connect("socket", **shared), soma.connect("socket", **shared) as second:
            with pytest.raises(soma.StartFailed, match=r"2 clients here.*max-clients-per-user"):
                soma.connect("socket", **shared)
            second.close()
            with pytest.raises(soma.StartFailed, match=r"1 workers here.*max-workers-per-user"):
                soma.connect("socket", path=daemon.path)


def test_connections_that_ask_for_nothing_are_not_taken_without_end():
    with short_directory() as directory, socket_daemon(directory / "s") as daemon:
        silent = [socket.socket(socket.AF_UNIX) for _ in range(257)]
        try:
            for connection in silent:
                connection.connect(str(daemon.path))
            answer = Answer.model_validate_json(silent[-1].recv(4096))
            assert "256 connections" in (answer.error or "")
            for connection in silent[:-1]:
                connection.close()
            wait_until(lambda: takes_clients(daemon))
        finally:
            for connection in silent:
                connection.close()


def test_what_a_launcher_hands_on_survives_the_shell_of_another_machine():
    joins_words_as_ssh_does = ["sh", "-c", 'exec sh -c "$*"', "ssh"]
    command = [*joins_words_as_ssh_does, sys.executable, "-P", "-m", "soma_transport_stdio"]
    filters = {"environment": f.Apply(lambda x, state: os.environ[x])}
    limits = {"header": 99_999}
    with soma.connect("stdio", command=command, limits=limits, filters=filters) as worker:
        assert '"header":99999' in worker.forward("environment", "SOMA_LIMITS").replace(" ", "")
