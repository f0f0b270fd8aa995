"""What goes wrong around a call costs that call at most: accidents of hosts and of neighbours."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import soma_core as soma
from soma_core import progress
from soma_core.channel.process import WorkerProcess
from soma_core.serve import Responder
from soma_core.transport import Dialect, Message

from ..support import (
    PROCESSES,
    gate_runs,
    is_running,
    nightly,
    run_python,
    short_directory,
    socket_daemon,
    wait_until,
)
from ..support import filters as f


@pytest.fixture(params=gate_runs("socket", of=PROCESSES))
def connect(request, connect):
    """Like ``soma.connect`` over each transport with processes."""
    return partial(connect, request.param)


class Unsendable:
    def __reduce__(self):
        raise AttributeError("module 'numpy' has no such thing")


class FitsOnce:
    def __init__(self):
        self.fits = 0

    def fit(self, x, y):
        self.fits += 1
        return Unsendable()

    def forward(self, x, state):
        return self.fits


def test_a_fit_whose_result_cannot_be_sent_is_told_and_not_run_again(connect):
    worker = connect(filters={"once": FitsOnce()})
    with pytest.raises(soma.RemoteError, match="its result cannot be sent") as caught:
        worker.fit("once", [1.0])
    assert caught.value.code is soma.ErrorCode.FILTER_FAILED
    assert worker.forward("once", None, {}) == 1


def test_large_results_arrive_in_a_host_with_many_descriptors(connect):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3000:
        pytest.skip("descriptors above 1,023 are not allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3000), hard))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        worker = connect(filters={"echo": f.Echo()})
        assert worker.forward("echo", np.ones(1 << 17)).sum() == 1 << 17
        worker.close()
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Alarm(Exception):
    """What a signal handler of the host's raises in the middle of a call."""


@pytest.mark.parametrize("raised", [Alarm, TimeoutError, ValueError, ConnectionError])
def test_an_exception_of_a_signal_handler_leaves_the_worker_usable(
    raised, connect, note, long_grace
):
    worker = connect(filters={"sleep": f.Sleep(), "echo": f.Echo()})

    def ring(signum, frame):
        raise raised("of the handler")

    def alarm():
        wait_until(note.exists)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, ring)
    thread = threading.Thread(target=alarm)
    thread.start()
    try:
        with pytest.raises(raised, match="of the handler") as caught:
            worker.forward("sleep", ("call", 60, str(note)))
        assert caught.value.__context__ is None
    finally:
        thread.join()
        signal.signal(signal.SIGALRM, before)
    assert worker.forward("echo", "next") == "next"


class LeavesAnAlarm:
    """Is done before the time is over that it gave itself."""

    def __init__(self, note: str) -> None:
        self.note = note

    def forward(self, x, state=None):
        def ring(signum, frame):
            Path(self.note).touch()
            raise x

        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.05)


@pytest.mark.parametrize("raised", [TimeoutError("late"), KeyError("late")])
def test_an_alarm_that_a_filter_did_not_call_off_costs_no_worker(raised, connect, note):
    worker = connect(filters={"leaves": LeavesAnAlarm(str(note))})
    before = worker.ping()
    worker.forward("leaves", raised)
    wait_until(note.exists)
    assert worker.ping() == before


def test_an_interrupt_that_comes_before_the_command_has_begun_is_not_lost(connect):
    worker = connect(filters={"sleep": f.Sleep(), "echo": f.Echo()})
    for _ in range(3):

        def interrupt():
            wait_until(lambda: worker.status().command)
            worker.interrupt()

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(soma.RemoteError) as caught:
            worker.forward("sleep", ("call", 60), timeout=30)
        thread.join()
        assert caught.value.code is soma.ErrorCode.INTERRUPTED
    assert worker.forward("echo", 1) == 1


class Chatters:
    def fit(self, x, y):
        while True:
            progress.report(still="here")

    def forward(self, x, state):
        return x


def test_an_interrupt_between_progress_reports_does_not_cut_one_in_two(connect, long_grace):
    worker = connect(filters={"chatters": Chatters()})
    for _ in range(5):
        with pytest.raises(soma.DeadlineExceeded) as caught:
            worker.fit("chatters", None, progress=lambda data: None, timeout=0.1)
        assert caught.value.worker_survived
    assert worker.ping()


def test_no_timeout_is_too_long(connect):
    worker = connect(filters={"echo": f.Echo()})
    assert worker.forward("echo", 1, timeout=float("inf")) == 1


class Remote(Exception):
    remote_type = 5


class Leaves(Exception):
    def __str__(self):
        sys.exit(3)


class BadSyntax(SyntaxError):
    @property
    def text(self):
        return 5


@pytest.mark.parametrize("error", [Remote("x"), Leaves(), BadSyntax("x", ("f", 1, 1, "t"))])
def test_whatever_an_exception_does_when_it_is_told_there_is_one_reply(error):
    class Raises:
        def forward(self, x, state):
            raise error

    responder = Responder()
    from soma_core.engine.nodes import Node

    responder.engine.nodes.add([Node("raises", Raises())])
    text = b'{"cmd":"FORWARD","node_id":"raises","id":7}'
    reply = responder.respond(Message(text, (), Dialect.LINE), lambda message: None)
    assert b'"ok":false' in reply.header
    assert b'"id":7' in reply.header
    assert b'"filter_failed"' in reply.header


def test_an_interrupt_of_a_dead_worker_does_not_spare_its_children():
    script = (
        "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); "
        "sys.stderr.write(f'{p.pid}\\n')"
    )
    process = WorkerProcess([sys.executable, "-c", script])
    child = int(wait_until(process.output.tail))
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    process.interrupt()
    process.stop(0.0)
    wait_until(lambda: not is_running(child))


class Shouts:
    def forward(self, x, state):
        for line in range(60):
            sys.stderr.write(f"{line:03d}" + "é" * 900 + "\n")
        sys.stderr.flush()
        os._exit(17)

    def fit(self, x, y):
        return {}


@pytest.mark.usefixtures("told_how")
def test_a_death_after_much_stderr_is_told_with_its_status_and_the_last_of_it(connect):
    worker = connect(filters={"shouts": Shouts()})
    with pytest.raises(soma.WorkerDied) as caught:
        worker.forward("shouts", None)
    assert caught.value.exit_code == 17
    assert "059é" in caught.value.stderr


def test_events_keep_to_the_policy_on_pickles():
    class Tells:
        def fit(self, x, y):
            progress.report(thing=object())

        def forward(self, x, state):
            return x

    from soma_core.engine.nodes import Node

    responder = Responder(pickle="never")
    responder.engine.nodes.add([Node("tells", Tells())])
    events = []
    text = b'{"cmd":"FIT","node_id":"tells","events":true}'
    reply = responder.respond(Message(text, (), Dialect.LINE), events.append)
    assert events == []
    assert b"pickle_refused" in reply.header


def test_ctrl_c_over_inline_reaches_the_caller_and_the_worker_goes_on(tmp_path):
    code = """
import os, signal, threading, time
import soma_core as soma

class Waits(soma.Filter):
    def forward(self, x, state):
        if x:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(60)
        return x

worker = soma.connect("inline", filters={"waits": Waits()})
try:
    worker.forward("waits", 1)
except KeyboardInterrupt:
    print("interrupted", worker.forward("waits", 0))
"""
    assert run_python(code, directory=tmp_path).stdout == "interrupted 0\n"


@pytest.mark.nightly
def test_a_descriptor_that_is_no_socket_does_not_end_the_daemon():
    with short_directory() as directory, socket_daemon(directory / "soma.sock") as daemon:
        with socket.socket(socket.AF_UNIX) as client, open(os.devnull) as nothing:
            client.settimeout(20)
            client.connect(str(daemon.path))
            socket.send_fds(client, [b'\x93SOMR{"op":"connect"}\n'], [nothing.fileno()])
            assert b'"ok":false' in client.recv(4096)
        with soma.connect("socket", path=daemon.path) as worker:
            assert worker.ping()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_daemon_of_another_user_is_not_trusted():
    script = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
os.chmod(sys.argv[1], 0o777)
print("listening", flush=True)
while True:
    listening.accept()
"""
    with short_directory() as directory:
        directory.chmod(0o777)
        path = directory / "trap.sock"
        trap = subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert trap.stdout.readline() == "listening\n"
            with pytest.raises(soma.StartFailed, match="belongs to user 65534, not to you"):
                soma.connect("socket", path=path)
        finally:
            trap.kill()
            trap.wait()
            trap.stdout.close()


ENDLESS = """
import os
event = b'{"event":"progress","cmd":"HELLO","data":{}}\\n' * 1000
while True:
    os.write(1, event)
"""


@nightly
def test_events_without_end_are_no_reason_to_wait_without_end() -> None:
    command = [sys.executable, "-c", ENDLESS]
    with pytest.raises(soma.StartFailed, match="HELLO did not end within"):
        soma.connect("stdio", command=command, start_timeout=1.0)


def test_a_reply_that_the_host_cannot_take_costs_that_call_alone(connect) -> None:
    worker = connect(
        filters={"zeros": f.Apply(lambda x, state: np.zeros(x))}, limits={"body": 10_000}
    )
    pid = worker.ping().pid
    for _ in range(3):
        with pytest.raises(soma.ProtocolError) as caught:
            worker.forward("zeros", 3000)
        assert caught.value.code is soma.ErrorCode.TOO_LARGE
        assert worker.forward("zeros", 1).tolist() == [0.0]
    assert worker.ping().pid == pid


class Works:
    """Works for a while, and says so every now and then, or not."""

    def fit(self, x, y=None):
        import time

        from soma_core import progress

        pauses, says_so = x
        for _ in range(pauses):
            time.sleep(0.1)
            if says_so:
                progress.report()
        return {"pauses": pauses}

    def forward(self, x, state):
        return state


@nightly
def test_a_call_that_makes_progress_may_take_longer_than_the_stall_timeout(connect) -> None:
    worker = connect(filters={"works": Works()}, stall_timeout=2.0)
    assert worker.fit("works", (30, True)) == {"pauses": 30}


def test_a_call_without_progress_is_given_up_after_the_stall_timeout(connect, long_grace) -> None:
    worker = connect(filters={"works": Works()}, stall_timeout=2.0)
    with pytest.raises(soma.DeadlineExceeded, match="made no progress for 2 s") as caught:
        worker.fit("works", (600, False))
    assert caught.value.worker_survived
    assert worker.fit("works", (1, False)) == {"pauses": 1}


@nightly
def test_progress_does_not_prolong_the_timeout(connect) -> None:
    worker = connect(filters={"works": Works()}, stall_timeout=30.0)
    with pytest.raises(soma.DeadlineExceeded, match="did not end within 1 s"):
        worker.fit("works", (600, True), timeout=1.0)


HALF_A_REPLY = """
import os, struct, sys, zlib
from soma_core.wire import frames
os.read(0, 65536)
whole = frames.write_frame(b"{}" * 100, [])
os.write(1, whole[:100])
os.kill(os.getpid(), 9)
"""


def test_a_death_in_the_middle_of_a_reply_is_a_death() -> None:
    command = [sys.executable, "-c", HALF_A_REPLY]
    with pytest.raises(soma.StartFailed, match="killed by SIGKILL during HELLO") as caught:
        soma.connect("stdio", command=command, start_timeout=60.0)
    assert isinstance(caught.value.__cause__, soma.WorkerDied)


class RaisesWhereItIsRead:
    """What a host gets whose signal handler raises while it reads a reply."""

    def __init__(self, host, state) -> None:
        self.host = host

    def __setstate__(self, state):
        if os.getpid() == state["host"]:
            raise KeyboardInterrupt


def test_what_is_raised_while_a_reply_is_read_costs_no_worker(connect):
    worker = connect(filters={"makes": f.Apply(RaisesWhereItIsRead), "echo": f.Echo()})
    before = worker.ping()
    with pytest.raises(KeyboardInterrupt):
        worker.forward("makes", os.getpid())
    assert worker.ping() == before


def reads_little():
    """What reads maps of frames as long as there is memory for a kilobyte."""
    from soma_core.wire import unpacking

    whole = unpacking.unpackb

    def unpackb(header, **options):
        if len(header) > 1000:
            raise MemoryError
        return whole(header, **options)

    return unpackb


class RunsShort:
    def forward(self, x, state):
        from soma_core.wire import unpacking

        unpacking.unpackb = reads_little()


@pytest.mark.parametrize("where", ["host", "worker"])
def test_a_message_that_there_is_no_memory_to_read_costs_its_call_and_not_the_worker(
    connect, monkeypatch, where
):
    worker = connect(filters={"echo": f.Echo(), "runs_short": RunsShort()})
    process = worker.ping().pid
    if where == "worker":
        worker.forward("runs_short", None)
    else:
        monkeypatch.setattr("soma_core.wire.unpacking.unpackb", reads_little())
    with pytest.raises(MemoryError):
        worker.forward("echo", "x" * 2000)
    assert worker.forward("echo", 1) == 1
    assert worker.ping().pid == process
