"""The socket daemon: its socket, its workers, and who may use them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import soma_core as soma
from soma_transport_socket import SocketTransport, address
from soma_transport_socket.daemon.controls import Controls
from soma_transport_socket.daemon.left_open import LeftOpen
from soma_transport_socket.daemon.loop import Loop
from soma_transport_socket.daemon.workers import Client, drop_bytes
from soma_transport_socket.messages import Answer

from ..support import (
    SocketDaemon,
    descriptors,
    gate_runs,
    is_running,
    nightly,
    run_python,
    short_directory,
    socket_daemon,
    wait_until,
    wait_until_gone,
)
from ..support import filters as f


@pytest.fixture
def directory():
    with short_directory() as path:
        yield path


@pytest.fixture(scope="module")
def common():
    """For clients that leave a daemon as it was."""
    with short_directory() as directory, socket_daemon(directory / "soma.sock") as daemon:
        yield daemon


@pytest.fixture
def daemon(directory):
    """A daemon of the test's own."""
    with socket_daemon(directory / "own.sock") as started:
        yield started


def refused(path: Path, *arguments: str) -> str:
    """Start a daemon that must refuse to start; returns what it said."""
    command = [sys.executable, "-m", "soma_transport_socket", "--path", str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    return done.stderr


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


# The socket


def test_the_socket_has_mode_0600_in_a_directory_of_mode_0700(directory):
    path = directory / "new" / "soma.sock"
    with socket_daemon(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_directory_that_others_may_write_to_is_refused(directory):
    path = directory / "open" / "soma.sock"
    path.parent.mkdir()
    path.parent.chmod(0o777)
    assert "other users may replace files" in refused(path)


@pytest.mark.nightly
def test_so_is_one_on_the_way_to_it(directory):
    path = directory / "open" / "mine" / "soma.sock"
    path.parent.mkdir(mode=0o700, parents=True)
    path.parent.parent.chmod(0o777)
    assert f"other users may replace files in {path.parent.parent}" in refused(path)


@nightly
def test_a_lock_on_the_directory_that_somebody_else_holds_is_not_waited_for_for_ever(directory):
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert f"{directory} is locked by another process" in refused(directory / "soma.sock")
    finally:
        os.close(descriptor)


@nightly
def test_the_daemon_and_its_workers_run_in_the_root_directory(directory):
    path = directory / "soma.sock"
    with socket_daemon(path, cwd=directory) as daemon:
        assert os.readlink(f"/proc/{daemon.pid}/cwd") == "/"
        filters = {"where": f.Apply(lambda x, s: f.os.getcwd())}
        with soma.connect("socket", path=path, filters=filters) as worker:
            assert worker.forward("where", None) == "/"


@pytest.mark.nightly
def test_a_relative_pythonpath_still_means_where_the_daemon_was_started(directory):
    (directory / "found").mkdir()
    (directory / "found" / "found_by_workers.py").write_text("answer = 42\n")
    environment = {**os.environ, "PYTHONPATH": f"found{os.pathsep}"}
    path = directory / "soma.sock"
    filters = {"finds": f.Apply(lambda x, s: __import__("found_by_workers").answer)}
    with (
        socket_daemon(path, cwd=directory, env=environment),
        soma.connect("socket", path=path, filters=filters) as worker,
    ):
        assert worker.forward("finds", None) == 42


@pytest.mark.nightly
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"env": {**os.environ, "PYTHONUNBUFFERED": "1"}},
        {"preexec_fn": partial(os.close, 2)},
    ],
    ids=["its reader", "its reader, unbuffered", "from the start"],
)
def test_a_daemon_whose_stderr_is_closed_serves(directory, options):
    reading, writing = os.pipe()
    os.close(reading)
    options = {"stderr": writing, **options}
    with socket_daemon(directory / "soma.sock", **options) as daemon:
        os.close(writing)
        with soma.connect("socket", path=daemon.path) as worker:
            assert worker.ping().pid
        assert daemon.stop() == 0


def test_a_stale_socket_is_replaced(directory):
    path = directory / "soma.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with socket_daemon(path), soma.connect("socket", path=path) as worker:
        assert worker.ping().pid


@pytest.mark.nightly
def test_a_second_daemon_is_refused_and_the_first_goes_on(daemon):
    said = refused(daemon.path)
    assert str(daemon.path) in said
    assert "already listens" in said
    with soma.connect("socket", path=daemon.path) as worker:
        assert worker.ping().pid


@pytest.mark.parametrize(
    "kind", gate_runs("a link to a file", of=["a file", "a directory", "a link to a file"])
)
def test_what_is_no_socket_is_refused_and_left_alone(directory, kind):
    path = directory / "soma.sock"
    if kind == "a file":
        path.write_text("mine")
    elif kind == "a directory":
        path.mkdir()
    else:
        (directory / "target").write_text("mine")
        path.symlink_to(directory / "target")
    assert "not a socket" in refused(path)
    assert path.exists()


@pytest.mark.nightly
def test_a_path_longer_than_a_socket_address_works(directory):
    path = directory / ("d" * 100) / ("e" * 100) / "soma.sock"
    with socket_daemon(path) as daemon, soma.connect("socket", path=path) as worker:
        assert worker.ping().pid
        worker.close()
        daemon.stop()
        assert not path.exists()


@pytest.mark.nightly
def test_a_relative_path_works(directory):
    command = [sys.executable, "-m", "soma_transport_socket", "--path", "soma.sock"]
    process = subprocess.Popen(command, cwd=directory)
    try:
        wait_until((directory / "soma.sock").exists, 60.0)
        with soma.connect("socket", path=directory / "soma.sock") as worker:
            assert worker.ping().pid
    finally:
        process.terminate()
        assert process.wait(20.0) == 0


@contextlib.contextmanager
def not_ignored(number):
    """Processes that start in the block do not inherit that a signal is ignored (``nohup``)."""
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(
    "number",
    gate_runs(signal.SIGTERM, of=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]),
)
def test_a_signal_ends_the_daemon_its_workers_and_its_socket(directory, number):
    path = directory / "soma.sock"
    block = partial(signal.pthread_sigmask, signal.SIG_BLOCK, {number})  # in who starts it
    with not_ignored(number), socket_daemon(path, preexec_fn=block) as daemon:
        workers = [
            soma.connect("socket", path=path, filters={"sleep": f.Sleep()}) for _ in range(2)
        ]
        pids = [worker.ping().pid for worker in workers]
        daemon.process.send_signal(number)
        assert daemon.process.wait(20.0) == 0
        assert not path.exists()
        wait_until_gone(*pids)
        for worker in workers:
            with pytest.raises(soma.TransportError):
                worker.forward("sleep", ("naps", 0.0))
            worker.close()


@nightly
def test_a_signal_ends_workers_that_are_busy_in_c_or_deaf(directory, tmp_path):
    path = directory / "soma.sock"
    with socket_daemon(path, "--grace=1") as daemon, ThreadPoolExecutor() as pool:
        workers = [
            soma.connect("socket", path=path, filters={"sleep": f.Sleep()}) for _ in range(2)
        ]
        pids = [worker.ping().pid for worker in workers]
        notes = [tmp_path / how for how in ("call", "deaf")]
        calls = [
            pool.submit(worker.forward, "sleep", (note.name, 60.0, str(note)))
            for worker, note in zip(workers, notes, strict=True)
        ]
        wait_until(lambda: all(note.exists() for note in notes))
        daemon.process.terminate()
        assert daemon.process.wait(20.0) == 0
        wait_until_gone(*pids)
        for call in calls:
            with pytest.raises(soma.WorkerDied):
                call.result(20.0)
        for worker in workers:
            worker.close()


def test_a_socket_that_somebody_else_put_there_is_not_removed(directory):
    path = directory / "soma.sock"
    with socket_daemon(path) as daemon:
        path.unlink()
        path.write_text("mine")
        assert daemon.stop() == 0
        assert path.read_text() == "mine"


def test_what_is_put_there_as_soon_as_it_listens_is_not_taken_for_the_socket(
    directory, monkeypatch
):
    path = directory / "soma.sock"

    class Replaced(socket.socket):
        def listen(self, queue):
            super().listen(queue)
            path.unlink()
            path.write_text("mine")

    monkeypatch.setattr(address.socket, "socket", Replaced)
    listening, inode = address.bind(path)
    with listening:
        assert path.stat().st_ino != inode


@pytest.mark.nightly
def test_a_daemon_whose_socket_was_removed_still_ends(directory):
    path = directory / "soma.sock"
    with socket_daemon(path) as daemon:
        path.unlink()
        assert daemon.stop() == 0


# Workers


@pytest.mark.nightly
def test_each_client_has_a_worker_of_its_own(daemon):
    with (
        soma.connect("socket", path=daemon.path, filters={"node": f.Mean()}) as one,
        soma.connect("socket", path=daemon.path, filters={"node": f.Mean()}) as other,
    ):
        assert one.ping().pid != other.ping().pid
        assert len({one.ping().pid, other.ping().pid, daemon.pid}) == 3
        one.fit("node", [1.0])
        other.fit("node", [5.0])
        assert one.forward("node", [1.0]).tolist() == [0.0]
        assert other.forward("node", [1.0]).tolist() == [-4.0]
        one.load({"extra": f.Echo()})
        with pytest.raises(soma.RemoteError, match="unknown node 'extra'"):
            other.forward("extra", 1)


@nightly
def test_a_client_whose_worker_dies_does_not_disturb_the_others(daemon):
    with (
        soma.connect("socket", path=daemon.path, filters={"process": f.Process()}) as one,
        soma.connect("socket", path=daemon.path, filters={"echo": f.Echo()}) as other,
    ):
        with pytest.raises(soma.WorkerDied):
            one.forward("process", ("kill", signal.SIGKILL))
        assert other.forward("echo", 1) == 1


def test_a_worker_ends_with_its_client(daemon):
    worker = soma.connect("socket", path=daemon.path)
    pid = worker.ping().pid
    worker.close()
    wait_until_gone(pid)


KILLED_CLIENT = """
import os, sys
import soma_core as soma

class Busy:
    def fit(self, x, y=None): return {}
    def forward(self, x, state):
        import os, time
        with open(x, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)

soma.connect("socket", path=sys.argv[1], filters={"busy": Busy()}).forward("busy", sys.argv[2])
"""


@pytest.mark.nightly
def test_a_worker_ends_with_its_client_that_was_killed_in_a_call(daemon, directory):
    note, script = directory / "pid", directory / "client.py"
    script.write_text(KILLED_CLIENT)
    client = subprocess.Popen([sys.executable, str(script), str(daemon.path), str(note)])
    wait_until(lambda: note.exists() and note.read_text())
    worker = int(note.read_text())
    client.kill()
    client.wait()
    wait_until_gone(worker)
    with soma.connect("socket", path=daemon.path) as another:
        assert another.ping().pid


def test_a_killed_daemon_takes_its_workers_with_it(directory):
    with socket_daemon(directory / "soma.sock") as daemon:
        busy = soma.connect("socket", path=daemon.path, filters={"process": f.Process()})
        pid = busy.ping().pid
        grandchild = busy.forward("process", ("grandchild",))
        daemon.process.kill()
        wait_until_gone(pid, grandchild)
        with pytest.raises(soma.WorkerDied):
            busy.ping()
        busy.close()
    with socket_daemon(directory / "soma.sock"):
        pass  # what it left behind is replaced


def test_a_call_under_way_when_the_daemon_is_killed_is_a_death(directory):
    with socket_daemon(directory / "soma.sock") as daemon, ThreadPoolExecutor() as pool:
        worker = soma.connect("socket", path=daemon.path, filters={"sleep": f.Sleep()})
        call = pool.submit(worker.forward, "sleep", ("call", 600.0))
        wait_until(lambda: worker.status().command)
        daemon.process.kill()
        with pytest.raises(soma.WorkerDied, match="FORWARD of node 'sleep'"):
            call.result(20.0)
        worker.close()


@nightly
def test_a_daemon_that_is_held_up_does_not_make_workers_look_dead(daemon):
    """Whoever cannot be asked whether a worker has died has not said that it did."""
    with (
        soma.connect("socket", path=daemon.path, filters={"sleep": f.Sleep()}) as worker,
        ThreadPoolExecutor() as pool,
    ):
        call = pool.submit(worker.forward, "sleep", ("naps", 3.0))
        wait_until(lambda: worker.status().command)
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            assert call.result(20.0) == "done"
        finally:
            os.kill(daemon.pid, signal.SIGCONT)


@nightly
def test_what_one_worker_leaves_behind_does_not_hold_other_clients_up(daemon):
    """A grandchild keeps the stderr of a dead worker open, which the daemon reads to its end."""
    left = []
    try:
        with (
            soma.connect("socket", path=daemon.path, filters={"sleep": f.Sleep()}) as patient,
            ThreadPoolExecutor() as pool,
        ):
            call = pool.submit(patient.forward, "sleep", ("naps", 4.0))
            wait_until(lambda: patient.status().command)
            for _ in range(3):
                worker = soma.connect("socket", path=daemon.path, filters={"process": f.Process()})
                left.append(worker.forward("process", ("escaped_grandchild",)))
                os.kill(worker.ping().pid, signal.SIGKILL)
                worker.close()
            assert call.result(30.0) == "done"
    finally:
        for pid in left:
            os.kill(pid, signal.SIGKILL)


@nightly
def test_a_client_that_dies_leaves_nothing_open_in_the_daemon(daemon):
    with soma.connect("socket", path=daemon.path) as worker:
        worker.ping()
    wait_until(lambda: len(children(daemon.pid)) == 0)
    before = len(descriptors(daemon.pid))
    for _ in range(5):
        with soma.connect("socket", path=daemon.path, filters={"echo": f.Echo()}) as worker:
            worker.forward("echo", 1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(daemon.path))
    wait_until(lambda: len(descriptors(daemon.pid)) <= before, what="descriptors stay open")


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize(
    ("start", "how"),
    gate_runs(
        (b"\x93", "waits"),
        (b"\x93SOMR{}", "goes"),
        of=list(product([b"\x93", b"\x93SOMR{}"], ["waits", "goes", "says that no more comes"])),
    ),
)
def test_a_client_that_says_half_a_request_does_not_keep_the_daemon_busy(common, start, how):
    before = len(descriptors(common.pid))
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(common.path))
    client.sendall(start)
    if how == "goes":
        client.close()
    elif how == "says that no more comes":
        client.shutdown(socket.SHUT_WR)
    ticks = cpu_ticks(common.pid)
    time.sleep(0.5)  # the time in which it should do nothing
    assert cpu_ticks(common.pid) - ticks < 20, "the daemon is busy with nothing"
    client.close()
    with soma.connect("socket", path=common.path) as worker:
        assert worker.ping().pid
    wait_until(lambda: len(descriptors(common.pid)) <= before, what="the connection stays open")


@pytest.mark.parametrize(
    "request_line",
    gate_runs(
        b'\x93SOMR{"op":"dance"}\n',
        of=[
            b"\x93SOMR{}\n",
            b"\x93SOMRhello\n",
            b'\x93SOMR{"op":"dance"}\n',
            b'\x93SOMR{"op":"status","worker":"nobody"}\n',
        ],
    ),
)
def test_a_request_that_is_none_is_answered_with_why_and_the_daemon_goes_on(common, request_line):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20.0)
        client.connect(str(common.path))
        client.sendall(request_line)
        answer = json.loads(client.recv(4096))
    assert answer["ok"] is False
    assert ("op: Input should be 'connect', " in answer["error"]) == (b"dance" in request_line)
    with soma.connect("socket", path=common.path) as worker:
        assert worker.ping().pid


BAD_ATTACHMENTS = {
    "what is no socket": (b'{"op":"connect","attached":["memory"]}', "file"),
    "what is no pipe": (b'{"op":"connect","attached":["output"]}', "file"),
    "a pipe that cannot be written": (b'{"op":"connect","attached":["output"]}', "read"),
    "a pipe that cannot be read": (b'{"op":"connect","attached":["printed"]}', "write"),
    "more than is named": (b'{"op":"connect"}', "file"),
    "less than is named": (b'{"op":"connect","attached":["memory","output"]}', "file"),
    "one thing twice": (b'{"op":"connect","attached":["memory","memory"]}', "socket"),
    "what is the daemon's": (b'{"op":"connect","attached":["lifeline"]}', "socket"),
    "anything with nonsense": (b"hello", "file"),
}


@pytest.mark.parametrize("bad", BAD_ATTACHMENTS)
def test_a_request_with_bad_descriptors_is_refused_and_none_stays_open(common, bad):
    line, kind = BAD_ATTACHMENTS[bad]
    before = len(descriptors(common.pid))
    for _ in range(5):
        reading, writing = os.pipe()
        with (
            socket.socket(socket.AF_UNIX) as client,
            open(os.devnull) as file,
            socket.socket(socket.AF_UNIX) as another,
            open(reading) as read_end,
            open(writing, "w") as write_end,
        ):
            client.settimeout(20.0)
            client.connect(str(common.path))
            given = {"socket": another, "file": file, "read": read_end, "write": write_end}
            attached = [given[kind].fileno()]
            socket.send_fds(client, [b"\x93SOMR" + line + b"\n"], attached)
            assert b'"ok":false' in client.recv(4096)
    wait_until(lambda: len(descriptors(common.pid)) <= before, what="descriptors stay open")


def test_what_a_client_has_read_meanwhile_is_not_waited_for():
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe, open(writing, "wb", buffering=0) as printing:
        printing.write(b"x" * 3000)
        assert drop_bytes(pipe.fileno(), 2000) == 2000
        assert drop_bytes(pipe.fileno(), 2000) == 1000
        assert drop_bytes(pipe.fileno(), 2000) == 0


def test_what_a_client_of_a_session_does_not_read_is_dropped_at_the_second_look():
    reading, writing = os.pipe()
    ours, theirs = socket.socketpair()
    with open(reading, "rb") as pipe, open(writing, "wb", buffering=0) as printing, theirs:
        client = Client(ours, {"printed": pipe.fileno()}, LeftOpen())
        printing.write(b"x" * 20_000)
        assert [client.relieve() for _ in range(3)] == [0, 20_000, 0]
        printing.write(b"x" * 1000)  # not so much that a worker would wait
        assert [client.relieve() for _ in range(3)] == [0, 0, 0]
        printing.close()
        client.close("worker")


def test_of_what_clients_that_left_keep_open_the_oldest_is_closed_first():
    left_open, pipes = LeftOpen(most=3), [os.pipe() for _ in range(6)]
    loop = Loop()
    controls = Controls(loop, lambda request: Answer(ok=True))
    asking = []
    for number, (reading, _) in enumerate(pipes):
        ours, theirs = socket.socketpair()
        with theirs:
            client = Client(ours, {"printed": reading}, left_open)
        os.close(reading)
        client.close("worker")
        ours, theirs = socket.socketpair()
        asking.append(ours)
        controls.add(theirs, "w", number)
        left_open.add(
            os.getuid() + 1,
            partial(controls.has, "w", number),
            partial(controls.drop, "w", number),
        )
        if number == 0:
            controls.drop("w", number)  # closed by itself, it counts no more
    writers = [writing for _, writing in pipes]
    due = [True] * 3 + [False] * 3
    wait_until(lambda: [is_broken(fd) for fd in writers] == due, what="other pipes are closed")
    assert [controls.has("w", number) for number in range(6)] == [False] * 3 + [True] * 3
    for fd in writers:
        os.close(fd)
    controls.forget("w")
    for ours in asking:
        ours.close()


def is_broken(writing):
    poller = select.poll()
    poller.register(writing, 0)
    return bool(poller.poll(0))


def test_what_is_printed_into_the_pipe_of_another_user_who_left_is_not_shown(monkeypatch, capfd):
    monkeypatch.setattr(
        "soma_transport_socket.daemon.workers.address.peer_uid", lambda _: os.getuid() + 1
    )
    before = set(threading.enumerate())
    reading, writing = os.pipe()
    ours, theirs = socket.socketpair()
    with theirs, open(writing, "wb", buffering=0) as printing:
        client = Client(ours, {"printed": reading}, LeftOpen())
        os.close(reading)
        client.close("worker")
        printing.write(b"a line of a log that is not theirs\n")
    wait_until(lambda: set(threading.enumerate()) <= before, what="nobody reads to the end")
    assert "not theirs" not in capfd.readouterr().err


@nightly
def test_deaf_workers_are_ended_together(directory, tmp_path):
    path, count = directory / "soma.sock", 8
    with socket_daemon(path, "--grace=0") as daemon, ThreadPoolExecutor(count) as pool:
        workers = [
            soma.connect("socket", path=path, filters={"sleep": f.Sleep()}) for _ in range(count)
        ]
        notes = [tmp_path / str(number) for number in range(count)]
        calls = [
            pool.submit(worker.forward, "sleep", ("deaf", 60.0, str(note)))
            for worker, note in zip(workers, notes, strict=True)
        ]
        wait_until(lambda: all(note.exists() for note in notes), 60.0)
        begun = time.monotonic()
        daemon.process.terminate()
        assert daemon.process.wait(60.0) == 0
        assert time.monotonic() - begun < 0.75 * count
        for call in calls:
            with pytest.raises(soma.WorkerDied):
                call.result(20.0)
        for worker in workers:
            worker.close()


@nightly
def test_many_clients_at_once(daemon):
    def use(number: int) -> int:
        with soma.connect("socket", path=daemon.path, filters={"echo": f.Echo()}) as worker:
            return worker.forward("echo", number)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(8))) == list(range(8))
    wait_until(lambda: len(children(daemon.pid)) == 0)


def test_a_daemon_whose_queue_is_full_is_waited_for_and_not_taken_for_dead(directory):
    path = directory / "full.sock"
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(path))
        listening.listen(0)
        with contextlib.suppress(BlockingIOError):  # it is full by then
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(path))
        with pytest.raises(TimeoutError, match="stayed full"):
            address.connect(path, 0.1)
        another = pool.submit(address.connect, path, 20.0)
        stack.enter_context(listening.accept()[0])
        another.result(20.0).close()


@pytest.mark.timeout(400)
@nightly
def test_64_clients_at_once_each_get_their_own_right_results_and_none_starves(directory):
    """All are connected before the first calls, and each has its turn while the others work.

    Their workers are forked; those of ``test_many_clients_at_once`` are started afresh.
    """
    count, turns = 64, 5
    together = threading.Barrier(count)
    with socket_daemon(directory / "own.sock", "--preload=numpy") as daemon:

        def use(number: int) -> tuple[int, float]:
            with soma.connect(
                "socket",
                path=daemon.path,
                filters={"mean": f.Mean(), "echo": f.Echo()},
                start_timeout=200.0,
            ) as worker:
                together.wait(250.0)
                begun = time.monotonic()
                worker.fit("mean", [float(number)])
                for turn in range(turns):
                    large = np.full(10_000, number * 1000 + turn)
                    assert (worker.forward("echo", large) == large).all()
                    assert worker.forward("mean", [float(turn)]).tolist() == [turn - number]
                return worker.ping().pid, time.monotonic() - begun

        with ThreadPoolExecutor(count) as pool:
            answers = list(pool.map(use, range(count)))
        pids = {pid for pid, _ in answers}
        assert len(pids) == count
        assert max(seconds for _, seconds in answers) < 60.0
        wait_until_gone(*pids)


# Who may use it


@pytest.mark.nightly
def test_a_daemon_without_pickle_refuses_pickles_whatever_the_client_wants(directory):
    path = directory / "soma.sock"
    with socket_daemon(path, "--pickle=never"), soma.connect("socket", path=path) as worker:
        with pytest.raises(soma.ProtocolError) as caught:
            worker.load({"echo": f.Echo()})
        assert caught.value.code is soma.ErrorCode.PICKLE_REFUSED


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_refused(directory):
    path = directory / "soma.sock"
    script = """
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for start in (b'{"cmd":"PING"}\\n', b'\\x93SOMR{"op":"connect"}\\n'):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(sys.argv[1])
    answer = b""
    try:
        client.sendall(start)
    except ConnectionError:
        pass  # it did not wait to hear it
    try:
        while data := client.recv(4096):
            answer += data
    except ConnectionError:
        pass
    client.close()
    print(answer.decode().strip())
"""
    with socket_daemon(path):
        directory.chmod(0o755)
        path.chmod(0o666)
        said = run_python(script, path, directory=directory).stdout.splitlines()
        assert len(said) == 2
        assert all('"ok":false' in line and "nobody else" in line for line in said)
        with soma.connect("socket", path=path) as worker:
            assert worker.ping().pid


@pytest.mark.parametrize(
    "use", [lambda path: soma.connect("socket", path=path), SocketTransport.status]
)
def test_what_listens_there_and_is_no_daemon_is_told(directory, use):
    path = directory / "other.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve():
            connection, _ = listening.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"220 welcome\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(soma.StartFailed, match="not a soma daemon"):
            use(path)
        thread.join()


@pytest.mark.nightly
def test_a_client_waits_a_little_for_a_daemon_that_starts(directory):
    path = directory / "soma.sock"
    arguments = [sys.executable, "-m", "soma_transport_socket", "--path", str(path)]
    # The daemon may take longer than a client waits, on a slow machine: then it asks again.
    with ThreadPoolExecutor() as pool:
        connecting = pool.submit(_connect_patiently, path)
        process = subprocess.Popen(arguments)
        try:
            with connecting.result(60.0) as worker:
                assert worker.ping().pid
        finally:
            process.terminate()
            process.wait(20.0)


def _connect_patiently(path: Path) -> soma.Worker:
    for _ in range(9):
        with contextlib.suppress(soma.StartFailed):
            return soma.connect("socket", path=path)
    return soma.connect("socket", path=path)


@nightly
def test_a_deadline_kills_a_worker_behind_the_daemon(daemon):
    options = {"path": daemon.path, "interrupt_grace": 0.3}
    with soma.connect("socket", filters={"sleep": f.Sleep()}, **options) as worker:
        pid = worker.ping().pid
        with pytest.raises(soma.DeadlineExceeded) as caught:
            worker.forward("sleep", ("deaf", 600.0), timeout=1.0)  # by then it is
        assert caught.value.worker_survived is False
        wait_until_gone(pid)
        assert is_running(daemon.pid)


@pytest.mark.nightly
def test_daemons_share_nothing(directory):
    with socket_daemon(directory / "a.sock") as one, socket_daemon(directory / "b.sock") as other:
        assert isinstance(one, SocketDaemon)
        with soma.connect("socket", path=other.path) as worker:
            one.stop()
            assert worker.ping().pid
