"""The connection over which a client asks the daemon about its worker, while that works."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

import soma_core as soma
from soma_core.transport import Deadline
from soma_transport_socket.ask import Control
from soma_transport_socket.daemon.controls import Controls
from soma_transport_socket.daemon.loop import Loop
from soma_transport_socket.messages import Answer, Request

from ..support import filters as f
from ..support import nightly, short_directory, socket_daemon

STATUS = Request(op="status")


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(10.0)
        yield ours, theirs


def line(**fields: object) -> bytes:
    return Answer(ok=True, **fields).to_json() + b"\n"


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(ends):
    ours, theirs = ends
    control = Control(ours)
    with pytest.raises(TimeoutError):
        control.ask(STATUS, 0.01)
    assert control.is_silent
    theirs.sendall(line(pid=1) + line(pid=2))
    answer = control.ask(STATUS, 5.0)
    assert answer is not None
    assert answer.pid == 2
    assert not control.is_silent


def test_no_second_question_is_sent_before_the_first_is_answered(ends):
    ours, theirs = ends
    control = Control(ours)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            control.ask(STATUS, 0.01)
    assert theirs.recv(4096) == STATUS.to_json() + b"\n"


def test_a_daemon_that_has_ended_is_told_from_one_that_is_held_up(ends):
    ours, theirs = ends
    control = Control(ours)
    theirs.close()
    assert control.ask(STATUS, 5.0) is None
    control.close()
    with pytest.raises(TimeoutError):
        control.ask(STATUS, 5.0)


def asked(data: bytes) -> tuple[bytes, list[Request]]:
    """What the daemon's side answers to some bytes until it closes or waits, and what it did."""
    done: list[Request] = []

    def answers(request: Request) -> Answer:
        done.append(request)
        return Answer(ok=True, worker=request.worker)

    loop = Loop()
    controls = Controls(loop, answers)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        controls.add(theirs, "w", 3)
        ours.sendall(data)
        loop.wait(Deadline.after(5.0))
        controls.forget("w")
        came = bytearray()
        while part := ours.recv(4096):
            came += part
        return bytes(came), done


def test_a_client_asks_about_its_own_worker_whichever_it_names():
    answer, done = asked(Request(op="kill", worker="another", client=7).to_json() + b"\n")
    assert done == [Request(op="kill", worker="w", client=3)]
    assert answer == line(worker="w")


@pytest.mark.parametrize("data", [b"nonsense\n", b'{"op":"status"}', b"x" * 4096, b'{"op":1}\n'])
def test_what_is_no_question_closes_the_control_and_does_nothing(data):
    assert asked(data) == (b"", [])


@pytest.mark.parametrize("op", ["connect", "serve", "sessions", "stop", "daemon"])
def test_nothing_else_can_be_asked_for_there(op):
    answer, done = asked(Request(op=op).to_json() + b"\n")
    assert (b'"ok":false' in answer, done) == (True, [])


def test_a_worker_lives_on_and_can_be_interrupted_when_its_socket_file_is_gone():
    with short_directory() as directory, socket_daemon(directory / "s") as daemon:
        options = {"path": daemon.path, "filters": {"sleep": f.Sleep(), "echo": f.Echo()}}
        with soma.connect("socket", **options) as worker:
            daemon.path.unlink()
            assert worker.forward("sleep", ("call", 0.8)) is not None
            with pytest.raises(soma.DeadlineExceeded) as caught:
                worker.forward("sleep", ("call", 60.0), timeout=0.2)
            assert caught.value.worker_survived
            assert worker.forward("echo", 1) == 1
            assert worker.status().alive


@nightly
def test_a_daemon_that_is_stopped_does_not_hold_up_a_deadline_a_death_or_a_close():
    with short_directory() as directory, socket_daemon(directory / "s") as daemon:
        options = {"path": daemon.path, "filters": {"sleep": f.Sleep()}}
        waiting, dying = soma.connect("socket", **options), soma.connect("socket", **options)
        pid = dying.ping().pid
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(soma.DeadlineExceeded):
                waiting.forward("sleep", ("call", 60.0), timeout=0.5)
            assert time.monotonic() - begun < 0.5 + 3.0
            threading.Timer(0.1, os.kill, [pid, signal.SIGKILL]).start()
            with pytest.raises(soma.WorkerDied):
                dying.forward("sleep", ("call", 60.0))
            for worker in (waiting, dying):
                begun = time.monotonic()
                worker.close()
                assert time.monotonic() - begun < 5.0
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
