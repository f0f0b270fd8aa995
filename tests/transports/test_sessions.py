"""Sessions: a worker that clients share by name, and that outlives their connections."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

import soma_core as soma
from soma_transport_socket import SocketTransport

from ..support import (
    descriptors,
    gate_runs,
    nightly,
    short_directory,
    socket_daemon,
    wait_until,
    wait_until_gone,
)
from ..support import filters as f

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sessions need Linux")


@pytest.fixture(scope="module", params=[pytest.param("started afresh", marks=nightly), "forked"])
def daemon(request):
    """A daemon for the tests of this module, whose sessions have names of their own."""
    arguments = ["--preload=colorsys"] if request.param == "forked" else []
    with short_directory() as directory, socket_daemon(directory / "s", *arguments) as started:
        yield started


@pytest.fixture
def name(request) -> str:
    """A session of the test's own."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)[-60:].lstrip("-")


@pytest.fixture
def _sessions_end(daemon):
    yield
    for session in SocketTransport.sessions(daemon.path):
        SocketTransport.stop_session(session.name, daemon.path)


@pytest.fixture
def connect(_sessions_end, connect, daemon, name):
    """Joins the session of the test; it is ended once the workers are closed."""
    return partial(connect, "socket", path=daemon.path, session=name)


def running(daemon) -> list[str]:
    return [s.command for s in SocketTransport.sessions(daemon.path) if s.command is not None]


# Shared


def test_clients_of_a_session_share_one_engine(connect):
    one, other = connect(filters={"mean": f.Mean()}), connect()
    assert one.ping() == other.ping()
    one.fit("mean", [1.0, 3.0])
    assert other.forward("mean", [2.0]).tolist() == [0.0]


def test_another_name_is_another_worker_and_no_name_is_ones_own(connect):
    workers = [connect(), connect(session="another"), connect(session=None), connect(session=None)]
    assert len({worker.ping().pid for worker in workers}) == 4


def test_a_session_outlives_its_clients_with_what_it_learned(connect):
    first = connect(filters={"mean": f.Mean()})
    first.fit("mean", [1.0, 3.0])
    incarnation = first.ping().incarnation
    first.close()
    second = connect()
    assert second.ping().incarnation == incarnation
    assert second.forward("mean", [2.0]).tolist() == [0.0]


def test_shutdown_ends_a_session_for_everybody(connect):
    one, other = connect(), connect()
    before = one.ping()
    one.shutdown()
    wait_until_gone(before.pid)
    with pytest.raises(soma.WorkerDied, match="exited with status 0"):
        other.ping()
    assert connect().ping().incarnation != before.incarnation


@pytest.mark.usefixtures("told_how")
def test_a_killed_session_is_told_to_every_client_and_its_name_is_free_again(connect):
    one, other = connect(), connect()
    before = one.ping()
    os.kill(before.pid, signal.SIGKILL)
    for worker in (one, other):
        with pytest.raises(soma.WorkerDied) as caught:
            worker.ping()
        assert caught.value.signal == "SIGKILL"
    assert connect().ping().incarnation != before.incarnation


class Exclusive:
    """Says whether two of its calls ever overlapped."""

    inside = 0

    def fit(self, x, y=None):
        return {}

    def forward(self, x, state):
        self.inside += 1
        time.sleep(0.001)
        alone = self.inside == 1
        self.inside -= 1
        return [alone, x]


def test_commands_of_several_clients_are_executed_one_after_another(connect):
    connect(filters={"exclusive": Exclusive(), "echo": f.Echo()})
    workers = [connect() for _ in range(4)]

    def use(number: int) -> bool:
        worker = workers[number]
        for turn in range(25):
            assert worker.forward("exclusive", [number, turn]) == [True, [number, turn]]
            large = np.full(20_000, number * 1000 + turn)
            assert (worker.forward("echo", large) == large).all()
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(4)))


def test_progress_goes_to_the_client_whose_command_it_is(connect):
    one, other = connect(filters={"report": f.Report()}), connect()
    mine, others = [], []
    with ThreadPoolExecutor(2) as pool:
        calls = [
            pool.submit(one.fit, "report", 30, progress=mine.append),
            pool.submit(other.fit, "report", 20, progress=others.append),
        ]
        for call in calls:
            call.result(60.0)
    assert [len(mine), len(others)] == [30, 20]


def test_any_language_can_join_by_one_line(daemon, name, connect):
    connect(filters={"echo": f.Echo()})
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20.0)
        client.connect(str(daemon.path))
        client.sendall(b'\x93SOMR{"op":"connect","session":"%s"}\n' % name.encode())
        lines = client.makefile("rb")
        assert json.loads(lines.readline())["ok"] is True
        client.sendall(b'{"cmd":"FORWARD","node_id":"echo","data":1}\n{"cmd":"PING","id":2}\n')
        assert json.loads(lines.readline())["result"] == 1
        assert json.loads(lines.readline())["id"] == 2
        lines.close()


# Interrupts and deadlines


def test_a_deadline_ends_a_command_of_ones_own_and_the_session_goes_on(connect, long_grace):
    one, other = connect(filters={"sleep": f.Sleep()}), connect()
    before = one.ping()
    with pytest.raises(soma.DeadlineExceeded) as caught:
        one.forward("sleep", ("naps", 60.0), timeout=0.3)
    assert caught.value.worker_survived
    assert one.ping() == other.ping() == before


class Count:
    count = 0

    def fit(self, x, y=None):
        return {}

    def forward(self, x, state):
        self.count += 1
        return self.count


def test_a_deadline_of_a_waiting_command_leaves_the_one_that_runs_alone(connect, note, long_grace):
    one, other = connect(filters={"sleep": f.Sleep(), "count": Count()}), connect()
    with ThreadPoolExecutor() as pool:
        call = pool.submit(one.forward, "sleep", ("naps", 60.0, str(note)))
        wait_until(note.exists)
        with pytest.raises(soma.DeadlineExceeded) as caught:
            other.forward("count", None, timeout=0.3)
        assert not call.done()
        assert caught.value.worker_survived
        note.unlink()
        assert call.result(20.0) == "done"
    assert other.forward("count", None) == 1, "the command that was given up was executed"


def test_an_interrupt_of_a_waiting_command_leaves_the_one_that_runs_alone(connect, note):
    one, other = connect(filters={"sleep": f.Sleep(), "echo": f.Echo()}), connect()
    with ThreadPoolExecutor() as pool:
        call = pool.submit(one.forward, "sleep", ("naps", 60.0, str(note)))
        wait_until(note.exists)
        waiting = pool.submit(other.forward, "echo", 1)
        wait_until(lambda: other.status().command)
        other.interrupt()
        with pytest.raises(soma.RemoteError, match="was not started") as caught:
            waiting.result(20.0)
        assert caught.value.code is soma.ErrorCode.INTERRUPTED
        note.unlink()
        assert call.result(20.0) == "done"


@nightly
def test_interrupts_without_end_never_hit_a_command_of_another_client(connect, long_grace):
    """One client is interrupted all the time, the other works on and is never disturbed."""
    one, other = connect(filters={"sleep": f.Sleep(), "echo": f.Echo()}), connect()
    over = threading.Event()

    def be_interrupted() -> int:
        interrupted = 0
        while not over.is_set():
            with pytest.raises(soma.DeadlineExceeded) as caught:
                one.forward("sleep", ("naps", 60.0), timeout=0.05)
            assert caught.value.worker_survived
            interrupted += 1
        return interrupted

    with ThreadPoolExecutor() as pool:
        nuisance = pool.submit(be_interrupted)
        try:
            for turn in range(40):
                assert other.forward("echo", turn) == turn
                assert other.forward("sleep", ("naps", 0.01)) == "done"
        finally:
            over.set()
        assert nuisance.result(60.0) > 5


@nightly
def test_a_session_that_does_not_listen_costs_a_waiting_client_its_connection_alone(connect, note):
    one, other = connect(filters={"sleep": f.Sleep(), "echo": f.Echo()}), connect()
    with ThreadPoolExecutor() as pool:
        call = pool.submit(one.forward, "sleep", ("deaf", 60.0, str(note)))
        wait_until(note.exists)
        with pytest.raises(soma.DeadlineExceeded) as caught:
            other.forward("echo", 1, timeout=0.2)
        assert not caught.value.worker_survived
        note.unlink()
        assert call.result(20.0) == "done"
    assert connect().forward("echo", 2) == 2


# Clients that go


KILLED = """
import sys
import soma_core as soma
worker = soma.connect("socket", path=sys.argv[1], session=sys.argv[2])
worker.forward("sleep", ("call", 600.0, sys.argv[3]))
"""


def test_a_command_of_a_client_that_is_killed_is_given_up_and_the_session_goes_on(
    daemon, name, connect, tmp_path, note
):
    worker = connect(filters={"sleep": f.Sleep(), "echo": f.Echo()})
    before = worker.ping()
    script = tmp_path / "client.py"
    script.write_text(KILLED)
    client = subprocess.Popen([sys.executable, str(script), str(daemon.path), name, str(note)])
    wait_until(note.exists, 60.0)
    client.kill()
    client.wait()
    assert worker.forward("echo", 1, timeout=20.0) == 1
    assert worker.ping() == before


def test_closing_in_the_middle_of_a_call_leaves_the_session(daemon, connect):
    one, other = connect(filters={"sleep": f.Sleep()}), connect()
    before = other.ping()
    with ThreadPoolExecutor() as pool:
        call = pool.submit(one.forward, "sleep", ("naps", 600.0))
        wait_until(lambda: "FORWARD" in running(daemon))
        one.close()
        with pytest.raises(soma.ChannelClosed):
            call.result(20.0)
    assert other.ping(timeout=20.0) == before


def test_a_waiting_command_of_a_client_that_left_is_not_executed(connect, note):
    one, other = connect(filters={"sleep": f.Sleep(), "count": Count()}), connect()
    with ThreadPoolExecutor() as pool:
        call = pool.submit(one.forward, "sleep", ("naps", 60.0, str(note)))
        wait_until(note.exists)
        waiting = pool.submit(other.forward, "count", None)
        wait_until(lambda: other.status().command)
        other.close()
        with pytest.raises(soma.ChannelClosed):
            waiting.result(20.0)
        note.unlink()
        assert call.result(20.0) == "done"
    assert one.forward("count", None) == 1


def test_clients_that_come_and_go_leave_nothing_open(daemon, connect):
    worker = connect(filters={"echo": f.Echo()})
    pid = worker.ping().pid

    def come_and_go() -> None:
        for _ in range(5):
            guest = connect()
            guest.forward("echo", np.zeros(100_000))
            guest.close()

    come_and_go()
    wait_until(lambda: SocketTransport.sessions(daemon.path)[0].clients == 1)
    worker.ping()
    before = len(descriptors(pid)), len(descriptors(daemon.pid))
    come_and_go()
    wait_until(
        lambda: (
            worker.ping()
            and len(descriptors(pid)) <= before[0]
            and len(descriptors(daemon.pid)) <= before[1]
        ),
        what="descriptors stay open",
    )


# Listed and ended


def test_sessions_are_listed_with_what_runs_even_while_it_runs(daemon, name, connect, note):
    worker = connect(filters={"sleep": f.Sleep()})
    (idle,) = SocketTransport.sessions(daemon.path)
    assert (idle.name, idle.pid, idle.clients) == (name, worker.ping().pid, 1)
    assert (idle.command, idle.node_id, idle.seconds) == (None, None, 0.0)
    assert idle.memory > 1_000_000
    with ThreadPoolExecutor() as pool:
        call = pool.submit(worker.fit, "sleep", ("naps", 60.0, str(note)))
        wait_until(note.exists)
        (busy,) = SocketTransport.sessions(daemon.path)
        assert (busy.command, busy.node_id) == ("FIT", "sleep")
        assert 0.0 < busy.seconds < 60.0
        note.unlink()
        call.result(20.0)
    wait_until(lambda: not running(daemon))


@pytest.mark.parametrize("how", ["naps", "deaf"])
def test_a_session_that_is_stopped_ends_whatever_runs_in_it(daemon, name, connect, note, how):
    worker = connect(filters={"sleep": f.Sleep()})
    pid = worker.ping().pid
    with ThreadPoolExecutor() as pool:
        call = pool.submit(worker.forward, "sleep", (how, 60.0, str(note)))
        wait_until(note.exists)
        SocketTransport.stop_session(name, daemon.path)
        with pytest.raises(soma.RemoteError if how == "naps" else soma.WorkerDied):
            call.result(20.0)
    wait_until_gone(pid)
    assert SocketTransport.sessions(daemon.path) == []


def test_stopping_a_session_that_is_not_there_names_those_that_are(daemon, name, connect):
    connect()
    with pytest.raises(soma.StartFailed, match=f"no session 'absent'; there are: {name}"):
        SocketTransport.stop_session("absent", daemon.path)


@pytest.mark.parametrize("bad", ["", "with space", "../up", "-x", "x" * 65, "é"])
def test_a_name_that_cannot_be_shown_or_typed_is_refused(daemon, bad):
    with pytest.raises(ValueError, match="session"):
        soma.connect("socket", path=daemon.path, session=bad)


def test_a_session_with_another_policy_on_pickles_is_not_joined(name, connect):
    connect()
    with pytest.raises(soma.StartFailed, match="was started with pickle='same-user'"):
        connect(pickle="never")


# Limits


@nightly
def test_a_session_without_clients_ends_after_a_while_and_not_before():
    with (
        short_directory() as directory,
        socket_daemon(directory / "s", "--idle-timeout=0.5") as daemon,
    ):
        kept, left = (soma.connect("socket", path=daemon.path, session=n) for n in ("a", "b"))
        pids = kept.ping().pid, left.ping().pid
        left.close()
        wait_until_gone(pids[1])
        assert [session.name for session in SocketTransport.sessions(daemon.path)] == ["a"]
        assert kept.ping().pid == pids[0]
        kept.close()
        wait_until_gone(pids[0])


@pytest.mark.nightly
def test_no_more_sessions_than_allowed_are_started():
    with (
        short_directory() as directory,
        socket_daemon(directory / "s", "--max-sessions=1") as daemon,
        soma.connect("socket", path=daemon.path, session="one") as worker,
    ):
        with pytest.raises(soma.StartFailed, match="--max-sessions allows no more"):
            soma.connect("socket", path=daemon.path, session="two")
        with soma.connect("socket", path=daemon.path, session="one") as another:
            assert another.ping() == worker.ping()
        with soma.connect("socket", path=daemon.path) as private:
            assert private.ping() != worker.ping()
        worker.shutdown()
        with soma.connect("socket", path=daemon.path, session="two") as later:
            assert later.ping().pid


@nightly
@pytest.mark.parametrize("arguments", [[], pytest.param(["--preload=numpy"], marks=nightly)])
def test_a_filter_that_takes_more_memory_than_allowed_gets_a_memory_error(arguments):
    def take(x, state):
        return len(bytearray(x))

    with (
        short_directory() as directory,
        socket_daemon(directory / "s", "--memory-limit=600M", *arguments) as daemon,
    ):
        for session in ("shared", None):
            with soma.connect(
                "socket", path=daemon.path, session=session, filters={"take": f.Apply(take)}
            ) as worker:
                with pytest.raises(MemoryError):
                    worker.forward("take", 1 << 30)
                assert worker.forward("take", 1 << 20) == 1 << 20


@pytest.mark.parametrize(
    ("argument", "complaint"),
    gate_runs(
        ("--memory-limit=4X", "a number of bytes is expected, as in 4000000 or 4G, got '4X'"),
        of=[
            ("--idle-timeout=soon", "a number of seconds is expected, got 'soon'"),
            ("--idle-timeout=-1", "a number of seconds is expected, got '-1'"),
            ("--max-sessions=many", "a whole number is expected, got 'many'"),
            ("--memory-limit=4X", "a number of bytes is expected, as in 4000000 or 4G, got '4X'"),
        ],
    ),
)
def test_a_limit_that_is_none_is_refused(argument, complaint):
    command = [sys.executable, "-m", "soma_transport_socket", argument]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert complaint in done.stderr


# The end of the daemon


@pytest.mark.parametrize("session", gate_runs("shared", of=["shared", None]))
def test_a_daemon_that_is_told_to_end_lets_the_running_command_end(session, note):
    with short_directory() as directory, socket_daemon(directory / "s", "--grace=60") as daemon:
        worker = soma.connect(
            "socket", path=daemon.path, session=session, filters={"sleep": f.Sleep()}
        )
        with ThreadPoolExecutor() as pool:
            call = pool.submit(worker.forward, "sleep", ("naps", 60.0, str(note)))
            wait_until(note.exists)
            daemon.process.terminate()
            wait_until(lambda: _refused(daemon.path))
            assert not call.done()
            note.unlink()
            assert call.result(20.0) == "done"
        assert daemon.process.wait(20.0) == 0
        assert not daemon.path.exists()
        worker.close()


def _refused(path) -> bool:
    try:
        soma.connect("socket", path=path).close()
    except soma.StartFailed as error:
        return "this daemon is ending" in str(error)
    return False


@pytest.mark.nightly
def test_a_command_can_still_be_interrupted_while_the_daemon_ends(note):
    with short_directory() as directory, socket_daemon(directory / "s", "--grace=60") as daemon:
        worker = soma.connect("socket", path=daemon.path, session="s", filters={"sleep": f.Sleep()})
        with ThreadPoolExecutor() as pool:
            call = pool.submit(worker.forward, "sleep", ("naps", 60.0, str(note)))
            wait_until(note.exists)
            daemon.process.terminate()
            wait_until(lambda: _refused(daemon.path))
            worker.interrupt()
            with pytest.raises(soma.RemoteError) as caught:
                call.result(20.0)
            assert caught.value.code is soma.ErrorCode.INTERRUPTED
        assert daemon.process.wait(20.0) == 0
        worker.close()


@nightly
@pytest.mark.parametrize("session", gate_runs("shared", of=["shared", None]))
def test_a_command_that_does_not_end_in_the_grace_is_ended(session, note):
    with short_directory() as directory, socket_daemon(directory / "s", "--grace=0.3") as daemon:
        worker = soma.connect(
            "socket", path=daemon.path, session=session, filters={"sleep": f.Sleep()}
        )
        pid = worker.ping().pid
        with ThreadPoolExecutor() as pool:
            call = pool.submit(worker.forward, "sleep", ("deaf", 60.0, str(note)))
            wait_until(note.exists)
            daemon.process.terminate()
            assert daemon.process.wait(20.0) == 0
            with pytest.raises(soma.WorkerDied):
                call.result(20.0)
        wait_until_gone(pid)
        worker.close()


@pytest.mark.nightly
def test_a_second_signal_ends_the_daemon_at_once(note):
    with short_directory() as directory, socket_daemon(directory / "s", "--grace=600") as daemon:
        worker = soma.connect("socket", path=daemon.path, session="s", filters={"sleep": f.Sleep()})
        pid = worker.ping().pid
        with ThreadPoolExecutor() as pool:
            call = pool.submit(worker.forward, "sleep", ("deaf", 60.0, str(note)))
            wait_until(note.exists)
            daemon.process.terminate()
            wait_until(lambda: _refused(daemon.path))
            daemon.process.terminate()
            assert daemon.process.wait(20.0) == 0
            with pytest.raises(soma.WorkerDied):
                call.result(20.0)
        wait_until_gone(pid)
        assert not daemon.path.exists()
        worker.close()
